"""ClickPrompt: CTR tower → soft prompts → prompted PLM (Figure 2), as a whole and as each objective needs it.

Shape legend: B rows, F fields, Z tokens, Q interaction_dim, L layers, K prompts per layer, H hidden size,
V vocabulary, M masked positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clickprompt.config import Pooling
from clickprompt.data.places import read_places
from clickprompt.errors import ConfigError
from clickprompt.models.ctr import CTRModel
from clickprompt.models.divided import shape_of, whole
from clickprompt.models.layers import linear
from clickprompt.models.projector import PromptProjector

if TYPE_CHECKING:
    from clickprompt.models.plm import PromptedPLM

__all__ = ["ClickHead", "ClickPrompt", "load_matching", "unique_tensors"]


class ClickPrompt(nn.Module):
    """Pretraining (§3.5.1), and the logits of Eq. 9 with a PLM and of Eq. 10 without one.

    Each takes one forward pass of the CTR tower. Without prompts nothing connects the towers: finetuning sums
    their logits (Table 5, w/o Prompt), and pretraining has no CTR tower.
    """

    logit_shift: float = 0.0
    """what the click logit has beside the towers' (config/sampling.py); training's loss is without it"""

    tasks: tuple[str, ...] = ()
    """names of the T labels beside the click (config/tasks.py): where there are some, logits are [B, 1 + T],
    the click's first
    """

    def __init__(
        self,
        ctr: CTRModel | None,
        plm: PromptedPLM | None,
        num_prompts: int,
        *,
        pooling: Pooling | None = None,
        click_head: bool = True,
        click_text: bool = False,
        id_head: nn.Module | None = None,
        text_id_head: nn.Module | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        """click_head: the model gives click logits; click_text: its PLM does by its LM head, not by Eq. 8's
        MLP, from a text that ends with the click (data/text/click_text.py). tasks: labels besides the click,
        of which Eq. 8's MLP has an output, and Eq. 9 an α, each.
        """
        super().__init__()
        self.tasks = tuple(tasks)
        self.ctr = ctr
        self.plm = plm
        self.prompt_projector: PromptProjector | None = None
        self.click_head: ClickHead | None = None
        self.id_head = id_head
        self.text_id_head = text_id_head
        self.click_text = click_text and click_head
        self.ctr_weight: nn.Parameter | None = None  # α of Eq. 9, the weight of the CTR logit
        if plm is None:
            return
        self.pooling: Pooling = pooling or ("cls" if plm.lm_kind == "masked" else "last")
        if num_prompts:
            assert ctr is not None, "prompts come from the CTR tower"
            layers, width = plm.prompt_shape
            self.prompt_projector = PromptProjector(
                ctr.interaction_dim, layers, num_prompts, plm.hidden_size, width
            )
        if click_head:
            if not click_text:
                self.click_head = ClickHead(plm.hidden_size, 1 + len(tasks))
            if num_prompts:
                # Shape [1], as DeepSpeed can't broadcast a 0-dim tensor
                self.ctr_weight = nn.Parameter(torch.full((1 + len(tasks),), 0.5))

    def forward(self, field_ids: Tensor, *text: Tensor | None) -> Tensor:
        """Compute Eq. 9, or Eq. 10 without a PLM, before the sigmoid: field_ids [B, F], input_ids and
        attention_mask [B, Z] → [B]; with `click_text` also click_positions [B] and click_answers [2], with
        ctr.text_embeddings text_vectors [B, F, H] (Batch).
        """
        return self.joined(*self.tower_logits(field_ids, *text))

    def tower_logits(
        self,
        field_ids: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        click_positions: Tensor | None = None,
        click_answers: Tensor | None = None,
        text_vectors: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return (ctr_logits [B], plm_logits [B] or None without a PLM); arguments as for `forward`.

        A baseline without a CTR tower has None for ctr_logits.
        """
        assert self.ctr is not None, "built without a CTR tower"
        interaction_vector = self.ctr.interaction_vector(field_ids, text_vectors)
        ctr_logits = self.ctr.logits(field_ids, interaction_vector)
        if self.plm is None:
            return ctr_logits, None
        assert input_ids is not None, "this model reads text"
        assert attention_mask is not None
        soft_prompts = self._soft_prompts(interaction_vector)
        if self.click_text:
            assert click_positions is not None, "the text lacks the click; open_model_table adds it"
            assert click_answers is not None
            states = self.plm.state_of_each(click_positions, input_ids, attention_mask, soft_prompts)
            return ctr_logits, self.plm.answer_logits(states, click_answers)
        assert click_positions is None, "the text ends with the click, which this model doesn't read"
        assert self.click_head is not None, "built without its click head"
        text = input_ids, attention_mask, soft_prompts
        return ctr_logits, self.click_head(self.pooled(*text))

    def pooled(self, input_ids: Tensor, attention_mask: Tensor, soft_prompts: Tensor | None = None) -> Tensor:
        """Return what Eq. 8 reads of each text, [B, H]: input_ids, attention_mask [B, Z]."""
        assert self.plm is not None
        text = input_ids, attention_mask, soft_prompts
        if self.pooling == "mean":
            return _mean(self.plm(*text), attention_mask)
        return self.plm.state_of_each(_read_position(attention_mask, self.pooling), *text)

    def joined(self, ctr_logits: Tensor | None, plm_logits: Tensor | None) -> Tensor:
        """Join the towers' logits [B] by Eq. 9, each task's by an α of its own; without prompts return their
        sum (Table 5), with one tower its own. To that comes the `logit_shift`.
        """
        logits = self._joined(ctr_logits, plm_logits)
        if not self.logit_shift:
            return logits
        # In bf16 a shift would cost digits
        return logits.to(torch.promote_types(logits.dtype, torch.float32)) + self.logit_shift

    def _joined(self, ctr_logits: Tensor | None, plm_logits: Tensor | None) -> Tensor:
        if plm_logits is None:
            assert ctr_logits is not None
            return ctr_logits
        if ctr_logits is None:
            return plm_logits
        if self.ctr_weight is None:
            return ctr_logits + plm_logits
        return self.ctr_weight * ctr_logits + (1 - self.ctr_weight) * plm_logits

    def masked_lm_logits(
        self,
        field_ids: Tensor,
        masked_input_ids: Tensor,
        attention_mask: Tensor,
        target_mask: Tensor,
        input_ids: Tensor | None = None,
        vocabulary: Tensor | None = None,
    ) -> Tensor:
        """Compute the LM logits of §3.5.1, before the softmax.

        field_ids [B, F], the others [B, Z], target_mask bool → [M, V], positions in row-major order.
        `input_ids` is the uncorrupted text, which an encoder-decoder's decoder reads;
        `vocabulary` [V] has the tokens to compute them for (default: all of the PLM's).
        """
        assert self.plm is not None, "built without a PLM"
        positions, numbers = (
            places.to(field_ids.device) for places in read_places(target_mask.cpu().numpy())
        )
        _, hidden = self.pretraining_states(
            field_ids, masked_input_ids, attention_mask, (positions, numbers), input_ids
        )
        assert hidden is not None
        return self.plm.lm_logits(hidden, vocabulary)

    def pretraining_states(
        self,
        field_ids: Tensor,
        masked_input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        places: tuple[Tensor, Tensor] | None = None,
        input_ids: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what the heads of pretraining read: q [B, Q] if the model has prompts or an objective on
        ids, and, if it has a PLM, its hidden states at `places`, [R, H] (`PromptedPLM.states_at`). Other
        arguments as for `masked_lm_logits`.
        """
        q = None
        if self.prompt_projector is not None or self.id_head is not None:
            assert self.ctr is not None
            q = self.ctr.interaction_vector(field_ids)
        if self.plm is None:
            return q, None
        assert masked_input_ids is not None, "pretraining needs text with targets"
        assert attention_mask is not None
        assert places is not None
        soft_prompts = None
        if self.prompt_projector is not None:
            assert q is not None
            soft_prompts = self._soft_prompts(q)
        return q, self.plm.states_at(places, masked_input_ids, attention_mask, soft_prompts, input_ids)

    def prompt_attention(self, field_ids: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return PromptedPLM.prompt_attention for each row's own prompts: [L, B, Z, K]."""
        assert self.ctr is not None
        assert self.plm is not None
        soft_prompts = self._soft_prompts(self.ctr.interaction_vector(field_ids))
        assert soft_prompts is not None, "built without prompts"
        return self.plm.prompt_attention(input_ids, attention_mask, soft_prompts)

    def _soft_prompts(self, interaction_vector: Tensor) -> Tensor | None:
        return None if self.prompt_projector is None else self.prompt_projector(interaction_vector)


class ClickHead(nn.Module):
    """The MLP of Eq. 8 and ŷ^PLM of Eq. 9: Linear(tanh(Linear(pooled))), H → H → 1, or one per task."""

    def __init__(self, hidden_size: int, tasks: int = 1) -> None:
        """tasks: of the click and further labels."""
        super().__init__()
        self.dense = linear(hidden_size, hidden_size)
        self.prediction = linear(hidden_size, tasks)

    def forward(self, pooled: Tensor) -> Tensor:
        """pooled [B, H] → plm_logits [B], of several tasks [B, tasks]."""
        pooled = pooled.to(self.dense.weight.dtype)  # the PLM may have another dtype
        return self.prediction(torch.tanh(self.dense(pooled))).squeeze(-1)


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every tensor of the state dict once, by its first name.

    Tied tensors (BART's three embedding tables) have several names.
    """
    return {name: tensor.detach() for name, tensor in _unique_parameters(model).items()}


def _unique_parameters(model: nn.Module) -> dict[str, Tensor]:
    """As `unique_tensors`, but the parameters themselves."""
    names: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), (name, tensor))
    return dict(names.values())


@torch.no_grad()
def load_matching(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Copy every tensor of an export whose name the model has; return the names left at their start values.

    Raises ConfigError, before anything is copied, if shapes differ or the export has another CTR tower.
    """
    own = _unique_parameters(model)
    for name, tensor in state.items():
        if name in own and shape_of(own[name]) != tensor.shape:
            raise ConfigError(
                f"{name}: the pretrained tensor has shape {tuple(tensor.shape)}, this model's "
                f"{tuple(shape_of(own[name]))}; use the ctr, prompt and plm settings and the dataset of the "
                "pretraining run"
            )
        if name not in own and name.startswith("ctr."):
            raise ConfigError(
                f"{name}: pretrained, but not in this model's CTR tower; use the ctr settings of the "
                "pretraining run"
            )
    for name, tensor in own.items():  # in the same order on all workers, which gather what is divided
        if name in state:
            with whole([tensor]):
                tensor.copy_(state[name])
    return [name for name in own if name not in state]


def _read_position(attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Return where Eq. 8 reads each row's state (padding is on the right), [B]: the first or last token."""
    if pooling == "cls":
        return attention_mask.new_zeros(len(attention_mask))
    return attention_mask.sum(1).clamp(min=1) - 1


def _mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Average the text positions' states: hidden [B, Z, H] → [B, H]."""
    lengths = attention_mask.sum(1).clamp(min=1)
    return (hidden * attention_mask.unsqueeze(-1).to(hidden.dtype)).sum(1) / lengths.unsqueeze(-1)
