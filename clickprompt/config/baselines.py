"""Settings of baselines (Appendix B.2)."""

from pydantic import Field

from clickprompt.config.base import Frozen

__all__ = ["CTRBertConfig", "CTRLConfig", "P5Config"]


class CTRBertConfig(Frozen):
    """CTR-BERT (`baseline: ctr_bert`)."""

    item_fields: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="fields of the item's text, the others are the user's; default: the log's item and what "
        "is joined to it",
    )


class CTRLConfig(Frozen):
    """CTRL's contrastive pretraining (`baseline: ctrl`)."""

    subspaces: int = Field(default=4, ge=1, description="M, the vectors to which each tower is projected")
    size: int = Field(default=32, ge=1, description="size of each of them")
    temperature: float = Field(
        default=0.7, gt=0, description="τ, by which similarities are divided before the softmax"
    )


class P5Config(Frozen):
    """P5 (`baseline: p5`)."""

    answers: tuple[int, int] | None = Field(
        default=None, description="tokens of the answers no and yes; default: those of plm.path's tokenizer"
    )
