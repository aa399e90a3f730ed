"""A frozen PLM that embeds texts (data/text/text_vectors.py).

Shape legend: V texts, Z tokens of the longest of them, H size of a vector.
"""

import numpy as np
import torch
import torch.nn.functional as F

from clickprompt.config import PLMConfig, PromptConfig
from clickprompt.data.text.template import encode, load_tokenizer, surrounding

__all__ = ["ValueEmbedder", "as_embedder"]

_BATCH = 64  # texts in a forward pass


class ValueEmbedder:
    """Maps texts to vectors."""

    def __init__(self, config: PLMConfig, seed: int) -> None:
        """seed: of the weights with plm.random_init."""
        from clickprompt.models.plm_loading import load_plm  # transformers' models take seconds to import

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._plm = load_plm(as_embedder(config), PromptConfig(num_prompts=0), lm_head=False).eval()
        self._tokenizer = load_tokenizer(config.path)
        self._suffix = surrounding(self._tokenizer)[1]
        self._max_tokens = min(config.max_length or self._plm.max_tokens, self._plm.max_tokens)

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


def as_embedder(config: PLMConfig) -> PLMConfig:
    """Leave out the settings of training, which don't change what a text's states are."""
    kept = {
        name: getattr(config, name) for name in ("path", "num_layers", "random_init", "dtype", "max_length")
    }
    return PLMConfig(**kept)
