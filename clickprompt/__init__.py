"""clickprompt: a Ray-distributed trainer for ClickPrompt (Lin et al., WWW'24)."""

__version__ = "0.1.0"
