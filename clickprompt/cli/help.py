"""The texts of --help: commands in groups, each with an example."""

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

from clickprompt.cli.examples import EXAMPLES, GROUPS

__all__ = ["Command", "Group", "JobGroup"]


class Command(TyperCommand):
    """A command whose help ends with its examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(ctx.command_path, formatter)


class Group(TyperGroup):
    """The whole command line. Its help has the commands by groups, with a sentence and an example each."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in GROUPS.values() for name in names]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        widest = max(map(len, self.commands))
        for title, names in GROUPS.items():
            with formatter.section(title):
                for name in names:
                    about = _first_sentence(self.commands[name].help)
                    formatter.write_dl([(f"{name:<{widest}}", about)])
                    formatter.write(f"{'':<{widest + 4}}$ {EXAMPLES[name][0]}\n")


class JobGroup(TyperGroup):
    """Commands about jobs, whose help ends with an example."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(ctx.command_path, formatter)


def _write_examples(path: str, formatter: Any) -> None:
    examples = EXAMPLES.get(path.partition(" ")[2], ())
    with formatter.section("Examples" if len(examples) > 1 else "Example"):
        for example in examples:
            formatter.write("".join(f"{line}\n" for line in _wrapped(f"  $ {example}", formatter.width)))


def _wrapped(example: str, width: int) -> list[str]:
    """Break a command before its options where it is too long; it can be typed as it stands."""
    first, *options = example.split(" --")
    lines = [first]
    for option in options:
        if len(lines[-1]) + len(option) + 5 > width:
            lines[-1] += " \\"
            lines.append(f"      --{option}")
        else:
            lines[-1] += f" --{option}"
    return lines


def _first_sentence(text: str | None) -> str:
    first, *_ = re.split(r"\. (?=[A-Z])", " ".join((text or "").split()))
    return f"{first.removesuffix('.')}."
