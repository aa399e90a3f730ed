"""The tokens by which P5 answers, found before a training begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clickprompt.config import Config, replaced
from clickprompt.data.text.click_text import ANSWERS
from clickprompt.data.text.template import encode
from clickprompt.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from clickprompt.models.plm_loading import PLMFacts

__all__ = ["find_answers", "with_answers"]


def with_answers(config: Config, plm: PLMFacts, tokenizer: PreTrainedTokenizerBase) -> Config:
    """Set p5.answers if the baseline is P5. Raises ConfigError for a PLM that can't answer."""
    if config.baseline != "p5":
        return config
    if plm.lm_kind != "denoising":
        raise ConfigError(
            f"plm.path={config.plm.path}: baseline=p5 answers by a decoder behind an encoder, which a "
            f"{plm.model_type} lacks; use T5, such as google-t5/t5-base"
        )
    answers = find_answers(tokenizer)
    if config.p5.answers not in (None, answers):
        raise ConfigError(
            f"p5.answers={list(config.p5.answers or ())}: the tokenizer of plm.path={config.plm.path} writes "
            f"no and yes as {list(answers)}; leave it out"
        )
    return replaced(config, {"p5.answers": answers})


def find_answers(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the tokens of no and yes.

    Raises ConfigError unless each is one token, none of them special.
    """
    no, yes = encode(tokenizer, ANSWERS, special_tokens=False)
    if len(no) != 1 or len(yes) != 1 or no == yes or {*no, *yes} & set(tokenizer.all_special_ids):
        shown = " and ".join(" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (no, yes))
        raise ConfigError(
            f"baseline=p5: {type(tokenizer).__name__} writes no and yes as {shown}; they must be a token "
            "each, and not the same one; use another PLM"
        )
    return no[0], yes[0]
