"""Measure which prompts a PLM reads to restore a field (Table 7): attention over the K prompts where one
field's value is masked.

One field's value in a row becomes [MASK] in all of its tokens; the others stay. The positions of the masks
are the queries; their attention is the mean over the heads, over a row's masks and over the rows. Table 7
shows the last layer's, divided by its sum over the prompts, for one row. Here are those of all layers, and
that sum itself: the share of all attention that goes to prompts.

Shape legend: B rows, F fields, Z tokens of the longest row, L layers, K prompts per layer.
"""

import numpy as np
import pyarrow as pa
import torch

from clickprompt.config import stored_config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import DataError
from clickprompt.evaluation.attention import AttentionSums
from clickprompt.export.checks import check_dataset, token_table
from clickprompt.export.format import ExportInfo, load_export, read_info
from clickprompt.models.clickprompt import ClickPrompt

__all__ = ["PromptAttention", "check_prompted"]


def check_prompted(export: str, dataset: Dataset) -> ExportInfo:
    """Raises DataError if the export has no layer-wise prompts, its PLM has no mask token, or the dataset has
    other fields.
    """
    info = read_info(export)
    prompt = info.config["prompt"]
    if (
        info.plm is None
        or not prompt["num_prompts"]
        or (info.objective != "pretrain" and not info.config["finetune"]["with_prompts"])
    ):
        raise DataError(
            f"{export}: has no prompts to attend to; give a run with a PLM and prompt.num_prompts of "
            "at least 1"
        )
    if prompt["prompt_depth"] != "layerwise":
        raise DataError(
            f"{export}: prompt_depth={prompt['prompt_depth']}: its prompts become positions of the "
            "text; train it layerwise"
        )
    # Imported here because transformers' models take seconds to import
    from clickprompt.models.plm_families import get_family

    if (kind := get_family(info.plm["model_type"], export).lm_kind) != "masked":
        raise DataError(
            f"{export}: {info.plm['model_type']} reads no [MASK] ({kind} language modelling); give a "
            "run of a masked one"
        )
    check_dataset(export, info, dataset)
    return info


class PromptAttention:
    """Sums of attention of a trained model over the rows that it reads."""

    def __init__(
        self,
        model: ClickPrompt,
        dataset: Dataset,
        table: TokenTable,
        *,
        batch_size: int,
        max_length: int | None = None,
        device: torch.device | None = None,
    ):
        """model: with eager attention."""
        self._device = device or torch.device("cpu")
        self._model = model.eval().to(self._device)
        self._columns, self._id_columns = dataset.columns, dataset.id_columns
        self._table = table
        self._batch_size = batch_size
        self._max_length = max_length

    @classmethod
    def load(cls, export: str, dataset: Dataset, device: torch.device | None = None) -> "PromptAttention":
        model, info = load_export(export, {"plm.attn_implementation": "eager"})
        config = stored_config(info.config)
        table = token_table(export, info, dataset)
        assert table is not None
        return cls(
            model,
            dataset,
            table,
            batch_size=config.pretrain.micro_batch_size,
            max_length=config.plm.max_length,
            device=device,
        )

    @torch.no_grad()
    def score(self, rows: pa.Table) -> AttentionSums:
        ids = np.stack([rows.column(column).to_numpy() for column in self._id_columns], axis=1)
        lengths = self._table.lengths(ids[:, : self._table.num_columns], self._max_length)
        by_length = np.argsort(-lengths, kind="stable")
        sums = [
            self._score(ids[by_length[start : start + self._batch_size]], field)
            for field in range(len(self._columns))
            for start in range(0, len(by_length), self._batch_size)
        ]
        return sum(sums[1:], sums[0])

    def _score(self, ids: np.ndarray, field: int) -> AttentionSums:
        """ids: [B, C]."""
        assert self._table.mask_id is not None
        field_ids = ids[:, : self._table.num_columns]
        input_ids, attention_mask = self._table.assemble(field_ids, max_length=self._max_length)
        masked = self._table.value_fields(field_ids, max_length=self._max_length) == field  # [B, Z]
        read = [
            ids.astype(np.int64),
            np.where(masked, self._table.mask_id, input_ids).astype(np.int64),
            attention_mask,
        ]
        attention = self._model.prompt_attention(
            *(torch.from_numpy(values).to(self._device) for values in read)
        )
        # [B, Z], 1 in all of a row's masks
        shares = masked / np.maximum(masked.sum(axis=1, keepdims=True), 1)
        weights = torch.einsum("lbzk,bz->lk", attention.double(), torch.from_numpy(shares).to(self._device))
        all_fields = np.zeros((len(self._columns), *weights.shape))
        all_fields[field] = weights.cpu().numpy()
        counts = np.zeros(len(self._columns), dtype=np.int64)
        counts[field] = masked.any(axis=1).sum()
        return AttentionSums(all_fields, counts)
