"""A PLM that embeds texts: the mean of its last hidden states over a text's tokens, scaled to length 1.

Shape legend: V texts, Z tokens of the longest of them, H size of a vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from clickprompt.data.text.template import encode, surrounding

if TYPE_CHECKING:
    from clickprompt.models.plm import PromptedPLM

__all__ = ["TextEmbedder"]

_BATCH = 64  # texts in a forward pass


class TextEmbedder:
    """Maps texts to vectors. The PLM gets no prompts."""

    def __init__(self, plm: PromptedPLM, tokenizer: Any, max_length: int | None) -> None:
        """max_length: most tokens of a text, if the PLM could read more."""
        self._plm = plm.eval()
        self._tokenizer = tokenizer
        self._suffix = surrounding(tokenizer)[1]
        self._max_tokens = min(max_length or plm.max_tokens, plm.max_tokens)

    @property
    def size(self) -> int:
        """Return H."""
        return self._plm.hidden_size

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> np.ndarray:
        """Return the texts' vectors, [V, H] float16; a text that is too long loses its last tokens."""
        tokens = [self._cut(ids) for ids in encode(self._tokenizer, texts, special_tokens=True)]
        lengths = np.array([len(ids) if text else 0 for ids, text in zip(tokens, texts, strict=True)])
        vectors = np.zeros((len(texts), self._plm.hidden_size), dtype=np.float16)
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            mask = torch.from_numpy(np.arange(lengths[rows].max()) < lengths[rows, None])
            input_ids = torch.zeros(mask.shape, dtype=torch.int64)
            input_ids[mask] = torch.tensor([token for row in rows for token in tokens[row]])
            hidden = self._plm(input_ids, mask.long()).float()
            mean = (hidden * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
            vectors[rows] = F.normalize(mean, dim=1).numpy()
        return vectors

    def _cut(self, ids: list[int]) -> list[int]:
        if len(ids) <= self._max_tokens:
            return ids
        return ids[: self._max_tokens - len(self._suffix)] + self._suffix
