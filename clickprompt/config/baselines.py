"""Settings of baselines (Appendix B.2)."""

from pydantic import Field

from clickprompt.config.base import Frozen

__all__ = ["CTRBertConfig"]


class CTRBertConfig(Frozen):
    """CTR-BERT (`baseline: ctr_bert`)."""

    item_fields: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="fields of the item's text, the others are the user's; default: the log's item and what "
        "is joined to it",
    )
