"""What is refused or said of the times of a whole log, whose parts were read one by one."""

from clickprompt.data.sources.raw import Findings
from clickprompt.data.sources.time_rule import TimeRule
from clickprompt.data.transform.instants import conflict, unit_of
from clickprompt.data.transform.time_formats import digits_format
from clickprompt.errors import DataError

__all__ = ["check_times", "time_warnings"]


def check_times(findings: Findings) -> None:
    """Raise DataError if the parts of a log have times of different forms."""
    if (pair := conflict(findings.times)) is not None:
        one, other = pair
        here, there = f"{findings.times[one]} ({one})", f"{findings.times[other]} ({other})"
        raise DataError(
            f"{here} stands beside {there}: a column has one unit and zone; mend the files, or give "
            "timestamp.unit"
        )
    small = [
        example
        for form, example in findings.times.items()
        if unit_of([form]) == "s" and unit_of(findings.times) != "s"
    ]
    if small:  # read as seconds, where the others are none
        raise DataError(f"{small[0]} is so near 0 that it could be of any unit; give timestamp.unit")


def time_warnings(rule: TimeRule | None, findings: Findings) -> list[str]:
    """Return what to say of numbers that are read as time since 1970 and look like dates."""
    if rule is None or rule.unit or rule.format:
        return []
    shown = [example.value for example in findings.times.values()]
    return [
        f"{value} is read as time since 1970; if it is a date, set timestamp: "
        f'{{column: {rule.column}, format: "{format}"}}, else its unit'
        for value in shown
        if (format := digits_format(value.removeprefix(f"{rule.column}=")))
    ]
