"""CTR-BERT (Muhamed et al. 2021, "CTR-BERT: Cost-effective knowledge distillation for billion-parameter
teacher models").

Shape legend: B rows, Z tokens of the longest user text, Y of the longest item text, H hidden size, D distinct
item texts.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from clickprompt.models.baselines.baseline import Baseline

__all__ = ["CTRBert", "ItemVectors"]

MOST_ITEMS = 1 << 16
"""item vectors that a scorer keeps, 200 MB of BERT-base's"""


class CTRBert(Baseline):
    """ŷ = σ(MLP([pool(BERT(x^user)); pool(BERT(x^item))])): two towers of one BERT, and a head over both.

    x^user and x^item are the texts of the row's fields on either side (data/text/item_fields.py). The towers
    meet in the head only, so an item's vector is the same in every row and can be kept.
    """

    name = "ctr_bert"
    stages = ("finetune",)
    texts = 2

    _items: "ItemVectors | None" = None

    def tower_logits(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        field_ids: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        item_input_ids: Tensor,
        item_attention_mask: Tensor,
    ) -> tuple[None, Tensor]:
        """input_ids, attention_mask [B, Z] of the users, item_input_ids, item_attention_mask [B, Y] → (None,
        logits [B]); field_ids [B, F] aren't read.
        """
        assert self.click_head is not None
        user = self.pooled(input_ids, attention_mask)
        encode = self.pooled if self._items is None else self._items
        return None, self.click_head(torch.cat([user, encode(item_input_ids, item_attention_mask)], dim=1))

    def keep_items(self, most: int = MOST_ITEMS) -> None:
        """Encode each item text once from now on. The weights must not change any more: for scoring only."""
        self._items = ItemVectors(self.pooled, most)


class ItemVectors:
    """The vectors of the item texts used last, by their tokens; others are encoded when asked for."""

    def __init__(self, encode: Callable[[Tensor, Tensor], Tensor], most: int) -> None:
        """encode: input_ids, attention_mask [D, Y] → vectors [D, H]; most: number of vectors to keep."""
        self._encode = encode
        self._most = most
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask [B, Y] → vectors [B, H]."""
        lengths = attention_mask.sum(1).tolist()
        texts = [ids[:length].tobytes() for ids, length in zip(input_ids.cpu().numpy(), lengths, strict=True)]
        first = {text: row for row, text in reversed(list(enumerate(texts)))}
        # pop and set can't fail when several threads score
        found = {text: self._kept.pop(text, None) for text in first}
        missing = [text for text, vector in found.items() if vector is None]
        if missing:
            rows = torch.tensor([first[text] for text in missing], device=input_ids.device)
            longest = int(attention_mask[rows].sum(1).max())
            vectors = self._encode(input_ids[rows, :longest], attention_mask[rows, :longest])
            # A copy of each, or one that is kept would keep all
            found |= {text: vector.clone() for text, vector in zip(missing, vectors, strict=True)}
        self._kept.update((text, vector) for text, vector in found.items() if vector is not None)
        for _ in range(len(self._kept) - self._most):
            self._kept.popitem(last=False)
        return torch.stack([vector for text in texts if (vector := found[text]) is not None])
