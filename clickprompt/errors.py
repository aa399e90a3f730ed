"""Every exception that clickprompt raises on purpose.

An `InputError` is a mistake that the person who typed the command can mend: its message names the value, the
rule and the remedy in one line, and the exit status is 2. Any other `ClickPromptError` is a failed run, with
exit status 1.

No message shows a password or a token that an address has in it (`without_secrets`).
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
    "has_secret",
    "without_secrets",
]

_URI = re.compile(r"\b\w+://[^\s'\"<>]+")
_USER = re.compile(r"(?<=://)([^/@?]*:[^/@]*|(?<=http://)[^/@?]+|(?<=https://)[^/@?]+)(?=@)")
_NAMES = (
    r"[\w.-]*(?:token|secret|passw(?:or)?d|pwd|signature|credential)[\w.-]*"
    r"|[\w.-]*(?:access|account|api)[_-]?key[\w.-]*|sig"
)
_VALUE = re.compile(rf"(?<=[?&;])({_NAMES})=[^&;#]+", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Return the text with *** for what lets someone in: `user:password@` of an address, and values of its
    query whose names say so (token, secret, password, signature, …_key).
    """
    if "://" not in text:
        return text
    return _URI.sub(lambda found: _VALUE.sub(r"\1=***", _USER.sub("***", found[0])), text)


def has_secret(uri: str) -> bool:
    """Return whether `without_secrets` finds something in it."""
    return without_secrets(uri) != uri


class ClickPromptError(Exception):
    """Base of all; `exit_code` is what a command that ends with it returns."""

    exit_code = 1

    def __str__(self) -> str:
        """One line without secrets, whatever the user's values in it hold."""
        return re.sub(
            r"[\x00-\x1f\x7f-\x9f\u2028\u2029]",
            lambda found: repr(found[0])[1:-1],
            without_secrets(super().__str__()),
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
