"""Every exception that clickprompt raises on purpose.

An `InputError` is a mistake that the person who typed the command can mend: its message names the value, the
rule and the remedy in one line, and the exit status is 2. Any other `ClickPromptError` is a failed run, with
exit status 1.
"""

import re

__all__ = [
    "ClickPromptError",
    "ConfigError",
    "DataError",
    "InputError",
    "MissingTextVectorsError",
    "MissingTokensError",
    "RunError",
    "StoppedError",
]


class ClickPromptError(Exception):
    """Base of all; `exit_code` is what a command that ends with it returns."""

    exit_code = 1

    def __str__(self) -> str:
        """One line, whatever the user's values in it hold."""
        return re.sub(
            r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], super().__str__()
        )


class InputError(ClickPromptError, ValueError):
    """What the user gave can't be used: a path, an option, a file's content."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration value or key that breaks a rule."""


class DataError(InputError):
    """A raw file, prepared dataset, token table, export or checkpoint that can't be used."""


class MissingTokensError(DataError):
    """A prepared dataset without the token table of the tokenizer that is to read it."""


class MissingTextVectorsError(DataError):
    """A prepared dataset without the text vectors that ctr.text_embeddings asks for."""


class RunError(ClickPromptError):
    """A run that started properly and then failed."""


class StoppedError(ClickPromptError):
    """A run that was asked by a signal to stop, and did; the exit status is 128 + its number, as of a process
    that the signal ended.
    """

    def __init__(self, message: str, signal_number: int = 2):
        super().__init__(message)
        self.exit_code = 128 + signal_number
