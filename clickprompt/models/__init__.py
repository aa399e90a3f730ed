"""The CTR tower, the prompt projector, the prompted PLM, and ClickPrompt made of the three. Single-device
code; nothing here imports ray or data.
"""
