"""Things that may happen to a file: what it says is changed, or its bytes are; and what is said of it."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from clickprompt.errors import InputError

EXAMPLES = int(os.environ.get("CLICKPROMPT_FUZZ_EXAMPLES", "150"))

WORDS = [
    "",
    "a.b",
    "log-*",
    "../..",
    "/etc/hostname",
    "things.title",
    "c0",
    "user_no",
    "when",
    "csv",
    "json",
    "multi",
    "numeric",
    "\t",
    "::",
]
MORE = [
    "nulls",
    "names",
    "encoding",
    "delimiter",
    "quote",
    "format",
    "explode",
    "group",
    "type",
    "values",
    "remove",
    "log",
    "missing",
    "unit",
]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([*WORDS, "\ud800"]),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def fuzz(one_in: int = 1) -> settings:
    """So many examples, or CLICKPROMPT_FUZZ_EXAMPLES; one_in: fewer of what takes longer."""
    return settings(
        max_examples=max(EXAMPLES // one_in, 1),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def refused(read, *arguments) -> str | None:
    """What the user is told, None where all is read."""
    try:
        read(*arguments)
    except InputError as error:
        said = str(error)
    else:
        return None
    assert "\n" not in said
    return said


def places(value, path=()):
    """All places in a schema."""
    yield path
    if isinstance(value, dict):
        for key, below in value.items():
            yield from places(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from places(below, (*path, index))


def changed(schema, draw):
    """The schema with one thing other than it was."""
    path = draw(st.sampled_from([place for place in places(schema) if place]))
    holder = schema
    for step in path[:-1]:
        holder = holder[step]
    what = draw(st.sampled_from(["replace", "delete", "add"]))
    if what == "replace":
        holder[path[-1]] = draw(JUNK)
    elif what == "delete":
        del holder[path[-1]]
    elif isinstance(holder, dict):
        holder[draw(st.sampled_from(MORE))] = draw(JUNK)


def damaged(content, draw):
    """Bytes with something cut out, put in, or turned over."""
    at = draw(st.integers(0, len(content)))
    what = draw(st.sampled_from(["cut", "insert", "flip", "again", "swap"]))
    if what == "cut":
        return content[:at]
    if what == "insert":
        return content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at:]
    if what == "flip":
        return content[:at] + bytes(byte ^ 0xFF for byte in content[at : at + 3]) + content[at + 3 :]
    end = min(len(content), at + draw(st.integers(1, 60)))
    return (
        content[:end] + content[at:end] + content[end:] if what == "again" else content[end:] + content[:end]
    )
