"""The texts of feature values in the CTR tower (`ctr.text_embeddings`): frozen PLM embeddings as features.

    e_j(x) = E[x] + W_j v[x]        for value x of field j

E are the ids' embeddings of Eq. 5, v[x] the value's text as a frozen PLM embeds it
(data/text/text_vectors.py), and W_j a trained matrix of the field's own: the same text means something else
in another field. W_j is 0 at first, so training begins with the tower without texts, and has no bias: where
v[x] is 0, as for unknown values, nothing is added. Linear terms (FM, DeepFM, xDeepFM) read ids alone.

As v is frozen, E[x] + W_j v[x] is one row for each value. An export has these rows in E's place (`fold`), so
whoever scores needs neither the PLM nor v.

Shape legend: B rows, F fields, N values of all fields, H size of a text's vector, d width of the table.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from clickprompt.config import Config, PromptConfig
from clickprompt.errors import ConfigError

__all__ = ["PROJECTION", "TextProjection", "fold", "text_size_of"]

PROJECTION = "ctr.text_projection.weight"
"""W's name in a model; an export has none"""
_TABLE = "ctr.embedding.weight"
_BLOCK_ROWS = 2**16  # values whose vectors are in memory


class TextProjection(nn.Module):
    """W_j v for each field j."""

    def __init__(self, num_fields: int, text_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_fields, text_size, width))

    def forward(self, text_vectors: Tensor) -> Tensor:
        """text_vectors [B, F, H] → [B, F, d]."""
        return torch.einsum("bfh,fhd->bfd", text_vectors.to(self.weight.dtype), self.weight)


@torch.no_grad()
def fold(weights: dict[str, Tensor], text_vectors: np.ndarray, field_sizes: Sequence[int]) -> None:
    """Turn the E[x] among a model's weights into E[x] + W_j v[x], and drop W: text_vectors [N, H]."""
    projection, table = weights.pop(PROJECTION), weights[_TABLE]
    for field, (begin, end) in enumerate(pairwise([0, *np.cumsum(field_sizes).tolist()])):
        for start in range(begin, end, _BLOCK_ROWS):
            rows = slice(start, min(start + _BLOCK_ROWS, end))
            vectors = torch.from_numpy(text_vectors[rows].astype(np.float32))
            table[rows] += vectors @ projection[field]


def text_size_of(config: Config, stage_name: str) -> int | None:
    """Return H if a stage reads the values' texts, else None; no weights are read.

    Raises ConfigError if it can't: it uses the PLM itself, is a pretraining or a baseline's, or the PLM is an
    encoder-decoder.
    """
    if config.ctr.text_embeddings == "none":
        return None
    objective, what = config.stage(stage_name).objective, f"ctr.text_embeddings={config.ctr.text_embeddings}"
    if config.baseline != "none":
        raise ConfigError(f"{what}: baseline={config.baseline} has none; leave one of the two out")
    if stage_name == "pretrain":
        raise ConfigError(
            f"{what}: for finetuning only; pretrain with ctr.text_embeddings=none, from which a finetuning "
            "with them can begin"
        )
    if objective != "without_plm":
        raise ConfigError(
            f"{what}: stands in for the PLM, which finetune.with_plm=true trains and reads itself; set "
            "finetune.with_plm=false, or ctr.text_embeddings=none"
        )
    from clickprompt.models.plm_loading import check_plm  # transformers' models take seconds to import

    facts = check_plm(config.plm, PromptConfig(num_prompts=0))
    if facts.lm_kind == "denoising":
        raise ConfigError(
            f"{what}: a {facts.model_type} has two stacks, none of which stands for a value's text; use a "
            "masked or causal language model"
        )
    return facts.hidden_size
