"""CTR tower, prompt projector, prompted PLM, and ClickPrompt out of the three. Single-device code; nothing
here imports ray or data.
"""
