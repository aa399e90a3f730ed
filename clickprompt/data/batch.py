"""The batch: what one forward pass reads.

Shape legend: B rows, F fields, Z tokens of the longest row, Y of the longest item text, D size of a
representation, H of a text's vector, T further labels.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from clickprompt.data.places import Cells, Reading

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """Rows of a click log: ids, and tokens if a PLM reads them.

    A row of `row_weight` 0 is padding; it takes part in no loss and no count.
    """

    row_ids: Tensor  # [B] int64
    # [B, F + V + N + K] int64, counted from 0 in each field (0 = unknown); V further values, N items of a
    # history, K numbers in millionths of a standard deviation (config/numbers.py)
    field_ids: Tensor
    labels: Tensor  # [B] float32, 0 or 1
    row_weight: Tensor  # [B] float32, 0 or 1
    importance: Tensor | None = None  # [B] float32, from 0 up: how much a row counts; None = all alike
    more_labels: Tensor | None = None  # [B, T] float32, of further tasks: 0, 1, or −1 where it isn't known
    input_ids: Tensor | None = None  # [B, Z] int64, the uncorrupted text; [MASK] for the click
    attention_mask: Tensor | None = None  # [B, Z] int64, 1 = token
    masked_input_ids: Tensor | None = None  # [B, Z] int64, the corrupted text
    mlm_labels: Tensor | None = None  # [B, Z] int64, -100 = no target
    reading: Reading | None = None  # where mlm_labels are targets, and which other states are read
    item_input_ids: Tensor | None = None  # [B, Y] int64, the item's text; input_ids are then the user's
    item_attention_mask: Tensor | None = None  # [B, Y] int64
    click_positions: Tensor | None = None  # [B] int64, where the text has [MASK] for the click
    click_answers: Tensor | None = None  # [2] int64, the tokens of no and yes
    text_vectors: Tensor | None = None  # [B, F, H] float16, of the values' texts (data/text/text_vectors.py)
    # Pretraining on ids (data/id_corruption.py), where field_ids are what is left of the row's own:
    true_ids: Tensor | None = None  # [B, F] int64, the row's own ids
    id_targets: Tensor | None = None  # [B, F] bool, cells of the id objective
    text_id_targets: Tensor | None = None  # [B, F] bool, cells whose id is restored from their text
    id_cells: Cells | None = None  # the true ones of id_targets, if ids are restored
    text_id_cells: Cells | None = None  # the true ones of text_id_targets
    target_log_q: Tensor | None = None  # [B, F] float32, log Q of true_ids (`Candidates`)
    candidate_ids: Tensor | None = None  # [C] int64, the ids among which an id is restored
    candidate_fields: Tensor | None = None  # [C] int64, the field of each, ascending
    candidate_log_q: Tensor | None = None  # [C] float32
    candidates_per_field: tuple[int, ...] = ()
    complete_fields: tuple[bool, ...] = ()  # whether the candidates are all ids of the field
    groups: Tensor | None = None  # [B] int64, whose rows a ranking loss compares
    joint_gradient: Tensor | None = None  # [B, D], of a loss over the global batch (two_pass.py)
    vocabulary: Tensor | None = None  # [V] int64, ascending: the softmax's tokens; None = the PLM's own

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def loss_weight(self) -> Tensor:
        """Return how much each row counts in a loss of clicks, [B] float32; 0 for padding."""
        return self.row_weight if self.importance is None else self.row_weight * self.importance

    def to(self, device: torch.device) -> "Batch":
        return _each(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """Copy to memory from which a GPU copies by itself; needs CUDA."""
        return _each(self, Tensor.pin_memory)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change the tensors of a dataclass, and of dataclasses in it."""
    if isinstance(value, Tensor):
        return change(value)
    if not is_dataclass(value):
        return value
    return replace(value, **{f.name: _each(getattr(value, f.name), change) for f in fields(value)})  # pyright: ignore[reportArgumentType]
