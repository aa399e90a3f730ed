"""What is spelled differently now: old words, as a script may have them, are refused with the new ones."""

from collections.abc import Sequence

from clickprompt.errors import InputError

__all__ = ["check_spelling"]

_RENAMED = {
    ("fetch", "--to"): "--out, the folder to download into",
    ("predict", "--to"): "--out, the folder or URI of the predictions",
    ("export", "--to"): "--format, the format; --out is the place",
    ("evaluate", "--attention"): "a command: clickprompt attention --run RUN --rows N",
    ("doctor", "--plan"): "a command: clickprompt plan CONFIG",
}
"""(command, old option) → what it is now"""


def check_spelling(arguments: Sequence[str]) -> None:
    """Raise InputError for an option of a command that has another name now."""
    command = arguments[0] if arguments else ""
    for argument in arguments[1:]:
        option = argument.partition("=")[0]
        if now := _RENAMED.get((command, option)):
            raise InputError(f"{command} {option} is now {now}")
