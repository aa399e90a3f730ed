"""The text of a row (Eq. 4, or a shorter one), and the tokenizers that read it."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clickprompt.errors import ConfigError, DataError
from clickprompt.io import storage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "SEPARATOR",
    "TEMPLATE",
    "TEMPLATES",
    "UNKNOWN",
    "encode",
    "load_tokenizer",
    "segment",
    "sentence",
    "special_ids",
    "surrounding",
    "tokenizer_fingerprint",
    "tokenizer_json",
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


def segment(name: str, value: str, first: bool, template: str = TEMPLATE) -> str:
    """Return one field's part of the text, with the separator that joins it to the part before."""
    return ("" if first else SEPARATOR) + template.format(name=name, value=value)


def sentence(names: Sequence[str], values: Sequence[str], template: str = TEMPLATE) -> str:
    """Return the text of one row: Eq. 4, unless another template is given."""
    return "".join(
        segment(name, value, index == 0, template)
        for index, (name, value) in enumerate(zip(names, values, strict=True))
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
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, KeyError and more here
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


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], special_tokens: bool
) -> list[list[int]]:
    """Return the token ids of each text by the tokenizer's own call. Special tokens spelled in a text
    (`<mask>`, `[SEP]`) stay plain text.

    The exception is a Unigram model (XLM-R, T5), which has them among its pieces: see data/text/segments.py.
    """
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
