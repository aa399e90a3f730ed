"""Every exception that clickprompt raises on purpose.

An `InputError` is something the person who typed the command can mend: its message names the value,
the rule and the remedy in one line, and the command line turns it into exit status 2. Any other
`ClickPromptError` is a failed run and becomes exit status 1.
"""

__all__ = ["ClickPromptError", "ConfigError", "DataError", "InputError", "RunError"]


class ClickPromptError(Exception):
    """Base of all; `exit_code` is what a command that ends with it returns."""

    exit_code = 1


class InputError(ClickPromptError, ValueError):
    """What the user gave can't be used: a path, an option, a file's content."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration value or key that breaks a rule."""


class DataError(InputError):
    """A raw file, prepared dataset, token table, export or checkpoint that can't be used."""


class RunError(ClickPromptError):
    """A run that started properly and then failed."""
