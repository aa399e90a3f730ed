"""The text of a row (Eq. 4, a shorter one, or one's own), and the tokenizers that read it.

A pattern is a text with the fields' names in braces, such as "{Age} years old. Item {Title} ({Genre})". It is
cut into one part per field, each with its field's value: between two values, at the last space that follows
punctuation, or else at the first space. So a part is a field's segment, as those of Eq. 4 are: it is
tokenized once a value, and left out as a whole where a text is too long.
"""

import contextlib
import difflib
import functools
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from clickprompt.errors import ConfigError, DataError, InputError
from clickprompt.io import storage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "SEPARATOR",
    "TEMPLATE",
    "TEMPLATES",
    "UNKNOWN",
    "check_template",
    "encode",
    "field_template",
    "is_pattern",
    "load_tokenizer",
    "segment",
    "sentence",
    "special_ids",
    "stored_template",
    "surrounding",
    "tokenizer_fingerprint",
    "tokenizer_json",
    "tokenizing",
]

TEMPLATE = "{name} is {value}."
TEMPLATES = {
    "sentence": TEMPLATE,  # Eq. 4
    # Values and separators only. Values themselves rarely have a semicolon, no word piece of the supported
    # families ends in one, and every family has a token for it
    "compact": "{value};",
}
"""name → what a dataset's manifest holds: the text of one field"""
SEPARATOR = " "
UNKNOWN = "unknown"  # the text of id 0
SENTINEL = "<extra_id_0>"
# part of the fingerprint, so that token tables of another format are not found
_TABLE_FORMAT = 4


_FIELD = re.compile(r"\{([^{}]*)\}")
_CLOSED = re.compile(r"(?<=[.,;:!?)]) ")


def is_pattern(template: str) -> bool:
    """Whether a manifest's template is that of the whole text, not of one field."""
    return template not in TEMPLATES.values()


def check_template(template: str) -> None:
    """Raises ValueError for a template that is neither a name of TEMPLATES nor a pattern."""
    if template not in TEMPLATES and "{" not in template:
        known = " or ".join(TEMPLATES)
        raise ValueError(f"template={template!r}: give {known}, or a pattern with fields' names in braces")


def stored_template(template: str, names: Sequence[str]) -> str:
    """Return what a manifest holds for a template: a name of TEMPLATES, or a pattern of the fields `names`.

    A field may be written as it would be named in code: {user_id} for "User ID". Raises InputError for an
    unknown name or field, a field that comes twice or before an earlier one, or values without a space
    between them.
    """
    if template in TEMPLATES:
        return TEMPLATES[template]
    if "{" not in template:
        raise InputError(
            f"template {template!r} is unknown; known: {', '.join(TEMPLATES)}, or a pattern such as "
            f"'{{{names[0]}}} chose {{{names[-1]}}}.'"
        )
    texts = _FIELD.split(template)
    found = [_known(name, names, template) for name in texts[1::2]]
    if any(brace in text for text in texts[::2] for brace in "{}"):
        raise InputError(f"template {template!r}: a brace without its other one; braces hold a field's name")
    for before, name in itertools.pairwise(found):
        if names.index(name) <= names.index(before):
            order = ", ".join(one for one in names if one in found)
            raise InputError(
                f"template {template!r}: {name} comes behind {before}; give every field once, in the order "
                f"of the dataset's fields: {order}"
            )
    for name, text in zip(found, texts[2:-1:2], strict=False):
        if SEPARATOR not in text:
            raise InputError(f"template {template!r}: put a space between {name} and the field behind it")
    texts[1::2] = [f"{{{name}}}" for name in found]
    pattern = "".join(texts)
    if not is_pattern(pattern):
        raise InputError(
            f"template {template!r}: means Eq. 4 or compact; give the other field a word of its own"
        )
    return pattern


def _known(field: str, names: Sequence[str], template: str) -> str:
    in_code = {name.lower().replace(" ", "_"): name for name in names}
    if field in names or field in in_code:
        return field if field in names else in_code[field]
    near = difflib.get_close_matches(field.lower(), in_code, n=1, cutoff=0.0)[0]
    raise InputError(
        f"template {template!r}: no field {field!r}; the nearest is {in_code[near]!r}, all are "
        f"{', '.join(names)}"
    )


@functools.cache
def _parts(pattern: str) -> dict[str, str]:
    """Return the template of each field that a pattern has; SEPARATOR joins them."""
    before, *rest = _FIELD.split(pattern)
    parts = {}
    for name, after in zip(rest[::2], rest[1::2], strict=True):
        cut = len(after)
        if len(parts) + 1 < len(rest) // 2:
            closed = [match.start() for match in _CLOSED.finditer(after)]
            # A word such as "(" belongs to the value behind it
            cut = closed[-1] if closed else after.index(SEPARATOR)
        parts[name] = f"{before}{{value}}{after[:cut]}"
        before = after[cut + 1 :]
    return parts


def field_template(name: str, template: str) -> str:
    """Return the text of one field; empty if a pattern leaves it out."""
    return _parts(template).get(name, "") if is_pattern(template) else template


def segment(name: str, value: str, first: bool, template: str = TEMPLATE) -> str:
    """Return one field's part of the text, with the separator that joins it to the part before; empty if a
    pattern leaves it out.
    """
    own = field_template(name, template)
    return own and ("" if first else SEPARATOR) + own.format(name=name, value=value)


def sentence(names: Sequence[str], values: Sequence[str], template: str = TEMPLATE) -> str:
    """Return the text of one row: Eq. 4, unless another template is given."""
    return SEPARATOR.join(
        segment(name, value, True, template)
        for name, value in zip(names, values, strict=True)
        if field_template(name, template)
    )


def load_tokenizer(path: str | None) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a local folder or hub name. Raises ConfigError if there is none, or no
    fast one.
    """
    if not path:
        raise ConfigError(
            "plm.path is not set; give a hub name or a local folder with a tokenizer, such as --set "
            "plm.path=DIR"
        )
    # imported here because it takes seconds, which runs without text should not wait for
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        if tokenizer.is_fast:  # a value of the wrong type is seen only where it is used
            special_ids(tokenizer)
            encode(tokenizer, ["a"], special_tokens=True)
    except (KeyboardInterrupt, SystemExit):
        raise
    # transformers raises OSError, ValueError, ImportError, KeyError and more here, and the tokenizers library
    # a panic, which is no Exception
    except BaseException as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"plm.path={path}: no tokenizer can be loaded from there; a folder needs its "
            f"tokenizer.json ({reason})"
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(
            f"plm.path={path}: {type(tokenizer).__name__} is not a fast tokenizer; give one with a "
            "tokenizer.json"
        )
    return tokenizer


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase", template: str = TEMPLATE) -> str:
    """Return 16 hex digits over everything that decides which ids a text gets: equal digits mean equal token
    tables.
    """
    backend = json.loads(tokenizer_json(tokenizer))
    backend.pop("truncation")  # both change with every call of the tokenizer, and neither is used here
    backend.pop("padding")
    described = json.dumps(
        [backend, special_ids(tokenizer), template, SEPARATOR, UNKNOWN, _TABLE_FORMAT], sort_keys=True
    )
    return storage.sha256_bytes(described.encode())[:16]


def tokenizer_json(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a fast tokenizer as JSON, complete for the tokenizers library."""
    return tokenizer.backend_tokenizer.to_str()  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


@contextlib.contextmanager
def tokenizing() -> Iterator[None]:
    """Tell in one line what is wrong with a tokenizer that fails on certain texts only, such as one without a
    token for the unknown. Raises DataError.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the tokenizers library raises Exception itself, or panics, which is none
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"the tokenizer can't read a text ({reason}); its tokenizer.json is damaged, get the model again"
        ) from error


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], special_tokens: bool
) -> list[list[int]]:
    """Return the token ids of each text by the tokenizer's own call. Special tokens spelled in a text
    (`<mask>`, `[SEP]`) stay plain text. Raises DataError if the tokenizer can't read one.

    The exception is a Unigram model (XLM-R, T5), which has them among its pieces: see data/text/segments.py.
    """
    with tokenizing():
        return tokenizer(
            list(texts),
            add_special_tokens=special_tokens,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int | None]:
    """Return the family's special ids by their purpose; None if it has none.

    T5's sentinel <extra_id_0> stands for the mask token that it lacks.
    """
    names = ("cls", "sep", "bos", "eos", "pad", "mask", "unk")
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in names}
    if ids["mask"] is None and SENTINEL in tokenizer.all_special_tokens:
        ids["mask"] = tokenizer.convert_tokens_to_ids(SENTINEL)  # pyright: ignore[reportArgumentType]
    return ids


def surrounding(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Return the special tokens that the family puts before and after one sentence."""
    bare, whole = (encode(tokenizer, ["a"], special_tokens=special)[0] for special in (False, True))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise DataError(
        f"{type(tokenizer).__name__} changes a text's tokens when it adds special tokens; such a "
        "tokenizer is not supported"
    )
