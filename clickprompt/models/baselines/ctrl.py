"""CTRL (Li et al. 2023, "CTRL: Connect Tabular and Language Model for CTR Prediction").

Shape legend: B rows, N rows of the global batch, F fields, Z tokens of the longest row, Q interaction_dim, H
hidden size, M sub-spaces, S their size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.config import Config
from clickprompt.models.baselines.baseline import Baseline
from clickprompt.models.ctr import CTRModel
from clickprompt.models.layers import at_least_float32, linear

if TYPE_CHECKING:
    from clickprompt.models.plm import PromptedPLM

__all__ = ["CTRL", "contrastive_loss"]


class CTRL(Baseline):
    """Pretraining: the CTR model's q and the PLM's pooled text of a row are each projected to M sub-spaces,
    and contrasted with those of the other rows (`contrastive_loss`). Finetuning: the CTR model alone
    (Eq. 10).
    """

    name = "ctrl"
    stages = ("pretrain", "finetune")
    has_ctr = True
    reads_masks = False

    def __init__(self, plm: PromptedPLM, config: Config, *, pretrain: bool, ctr: CTRModel | None) -> None:
        assert pretrain, "finetuning has the CTR model alone"
        assert ctr is not None
        super().__init__(plm, config, pretrain=True)
        self.ctr = ctr
        self.temperature = config.ctrl.temperature
        self.contrast = Contrast(
            ctr.interaction_dim, plm.hidden_size, config.ctrl.subspaces, config.ctrl.size
        )

    def representations(self, field_ids: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """field_ids [B, F], input_ids and attention_mask [B, Z] → [B, 2 · M · S]: tabular, then textual."""
        assert self.ctr is not None
        q = self.ctr.interaction_vector(field_ids)
        return self.contrast(q, self.pooled(input_ids, attention_mask))


class Contrast(nn.Module):
    """The projections of both towers to M sub-spaces of size S; in each a vector has length 1."""

    def __init__(self, interaction_dim: int, hidden_size: int, subspaces: int, size: int) -> None:
        super().__init__()
        self.subspaces = subspaces
        self.tabular = linear(interaction_dim, subspaces * size)
        self.textual = linear(hidden_size, subspaces * size)

    def forward(self, q: Tensor, pooled: Tensor) -> Tensor:
        """q [B, Q], pooled [B, H] → [B, 2 · M · S]."""
        projected = self.tabular(q), self.textual(pooled.to(self.textual.weight.dtype))
        parts = [
            F.normalize(at_least_float32(one.unflatten(1, (self.subspaces, -1))), dim=2) for one in projected
        ]
        return torch.cat(parts, dim=1).flatten(1)


def contrastive_loss(representations: Tensor, real: Tensor, subspaces: int, temperature: float) -> Tensor:
    """Return ½ Σ_i [−log softmax_j(sim(a_i, b_j) / τ)_i − log softmax_j(sim(b_i, a_j) / τ)_i] over the rows i
    and j that are real: InfoNCE in both directions, with all other rows as negatives.

    sim(a, b) = Σ_m max_n a_m · b_n over the sub-spaces m of the one and n of the other.

    representations [N, 2 · M · S] of tables a and texts b, real [N] bool → a scalar.
    """
    chosen = representations[real].unflatten(1, (2, subspaces, -1))
    tabular, textual = chosen.unbind(1)
    own = torch.arange(len(chosen), device=chosen.device)
    products = torch.einsum("ims,jns->ijmn", tabular, textual)
    from_tabular = products.amax(3).sum(2)
    from_textual = products.amax(2).sum(2).T
    return sum(
        F.cross_entropy(similarity / temperature, own, reduction="sum") / 2
        for similarity in (from_tabular, from_textual)
    )  # pyright: ignore[reportReturnType]
