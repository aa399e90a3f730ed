"""PA-MLM as one would write it down first: the baseline of `pamlm-step`. The same loss of the same weights,
with five things done differently.

1. A Python loop over L·K two-layer MLPs (Eq. 6).
2. Hidden states [prompts ⊕ text] go through every layer as K + Z positions, and the prompts' outputs are
   dropped (Eq. 7).
3. The LM head and the cross entropy run on every position.
4. Micro-batches are cut in row order.
5. Dropout and attention are torch's own (models/plm_dropout.py).

Shape legend: B rows, Z tokens, L layers, K prompts per layer, H hidden size, Q interaction_dim.
"""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.data.batch import Batch
from clickprompt.data.collate import Collator
from clickprompt.data.text.masking import IGNORED
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.models.plm import PromptedPLM
from clickprompt.models.plm_dropout import CPUDropout
from clickprompt.models.projector import PromptProjector

__all__ = ["ObviousPAMLM", "SeparateProjectors", "row_order_micro_batches"]


class SeparateProjectors(nn.Module):
    """Eq. 6: L·K networks, one by one, with the weights of `projector`."""

    def __init__(self, projector: PromptProjector) -> None:
        super().__init__()
        num_layers, num_prompts, _ = projector.shape
        parameters = (
            projector.hidden_weight,
            projector.hidden_bias,
            projector.output_weight,
            projector.output_bias,
        )
        networks = []
        for hidden_weight, hidden_bias, output_weight, output_bias in zip(*parameters, strict=True):
            hidden = nn.Linear(hidden_weight.shape[1], hidden_weight.shape[0])
            output = nn.Linear(output_weight.shape[1], output_weight.shape[0])
            hidden.weight, hidden.bias = (
                nn.Parameter(hidden_weight.detach().clone()),
                nn.Parameter(hidden_bias.detach().clone()),
            )
            output.weight, output.bias = (
                nn.Parameter(output_weight.detach().clone()),
                nn.Parameter(output_bias.detach().clone()),
            )
            networks.append(nn.Sequential(hidden, nn.Tanh(), output))
        self.layers = nn.ModuleList(
            nn.ModuleList(networks[layer * num_prompts : (layer + 1) * num_prompts])
            for layer in range(num_layers)
        )

    def forward(self, interaction_vector: Tensor) -> list[Tensor]:
        """Map q [B, Q] → one [B, K, H] per layer."""
        layers = cast(list[nn.ModuleList], self.layers)
        return [torch.stack([network(interaction_vector) for network in layer], dim=1) for layer in layers]


class ObviousPAMLM(nn.Module):
    """The objective. It takes over `model` and replaces its prompt projector; the PLM must be a RoBERTa."""

    def __init__(self, model: ClickPrompt) -> None:
        super().__init__()
        assert isinstance(model.prompt_projector, PromptProjector)
        model.prompt_projector = SeparateProjectors(model.prompt_projector)  # pyright: ignore[reportAttributeAccessIssue]
        assert model.plm is not None
        use_torch(model.plm)
        self.model = model
        self.terms = {"lm": 1.0}

    def forward(self, batch: Batch) -> Tensor:
        """Return the summed loss, [1]."""
        assert batch.masked_input_ids is not None
        assert batch.attention_mask is not None
        assert batch.mlm_labels is not None
        assert self.model.ctr is not None
        assert self.model.plm is not None
        assert self.model.prompt_projector is not None
        prompts = self.model.prompt_projector(self.model.ctr.interaction_vector(batch.field_ids))
        hidden = concatenated_hidden(self.model.plm, batch.masked_input_ids, batch.attention_mask, prompts)
        logits = self.model.plm.lm_logits(hidden)
        return F.cross_entropy(
            logits.flatten(0, 1), batch.mlm_labels.flatten(), ignore_index=IGNORED, reduction="sum"
        ).reshape(1)

    def count_targets(self, batch: Batch) -> Tensor:
        assert batch.mlm_labels is not None
        return (batch.mlm_labels != IGNORED).sum().reshape(1)


def use_torch(plm: PromptedPLM) -> None:
    for parent in list(plm.modules()):
        for name, child in parent.named_children():
            if isinstance(child, CPUDropout):
                setattr(parent, name, nn.Dropout(child.p))
    plm.backbone.set_attn_implementation("sdpa")


def concatenated_hidden(
    plm: PromptedPLM, input_ids: Tensor, attention_mask: Tensor, prompts: list[Tensor]
) -> Tensor:
    """Compute Eq. 7 literally: input_ids, attention_mask [B, Z], prompts [B, K, H] per layer → hidden states
    of the text [B, Z, H].
    """
    hidden = plm.backbone.embeddings(input_ids=input_ids)
    num_prompts = prompts[0].shape[1]
    visible = F.pad(attention_mask.bool(), (num_prompts, 0), value=True)
    mask = torch.zeros(visible.shape, dtype=hidden.dtype).masked_fill(
        ~visible, torch.finfo(hidden.dtype).min
    )[:, None, None, :]
    for layer, layer_prompts in zip(plm.backbone.encoder.layer, prompts, strict=True):
        hidden = layer(torch.cat([layer_prompts, hidden], dim=1), mask)[:, num_prompts:]
    return hidden


def row_order_micro_batches(
    collator: Collator, columns: Mapping[str, np.ndarray], micro_batch_size: int, epoch: int = 0
) -> list[Batch]:
    """Return the rows as they come, each micro-batch padded to its own longest row."""
    starts = range(0, len(columns["row_id"]), micro_batch_size)
    return [
        collator({name: values[start : start + micro_batch_size] for name, values in columns.items()}, epoch)
        for start in starts
    ]
