"""The CTR tower: embedding, feature interaction, prediction (Eq. 2, 5, 10).

Shape legend: B rows, F fields, V further values of fields, N columns of a history, C = F + V + N columns of
ids, Q interaction_dim, H size of a text's vector. Where fields have numbers, K more columns follow.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.config import MILLION, CTRConfig, History, Multi, multi_columns
from clickprompt.models.backbones import get_backbone
from clickprompt.models.given_vectors import GivenVectors, Tables
from clickprompt.models.history import POOLINGS, Events
from clickprompt.models.layers import ALL_ROWS, PackedEmbedding
from clickprompt.models.numbers import EMBEDDERS
from clickprompt.models.pooling import pooled_fields
from clickprompt.models.tasks import TASK_HEADS
from clickprompt.models.text_projection import TextProjection

__all__ = ["CTRModel"]


class CTRModel(nn.Module):
    """ŷ^CTR = Linear(q), q = FI_Layer(Embed_Layer(x^ID)); FM, DeepFM and xDeepFM add linear terms Σ_j w[x_j].

    `prediction=False` leaves out what only the logit needs and nothing would train (pretraining reads only
    q). Raises ConfigError for an unknown backbone.
    """

    def __init__(
        self,
        field_sizes: Sequence[int],
        config: CTRConfig,
        *,
        prediction: bool = True,
        table_rows: slice = ALL_ROWS,
        text_size: int | None = None,
        history: History | None = None,
        multi: Sequence[Multi] = (),
        numbers: Sequence[int] = (),
        tasks: int = 0,
        vectors: Tables | None = None,
    ) -> None:
        """table_rows: those of the tables that the model has (PackedEmbedding); text_size: H, if the values'
        texts are read, too (text_projection.py); history: that of the rows, if they have one; multi: the
        fields of which rows have several values; numbers: the fields whose numbers rows have
        (config/numbers.py); vectors: field → those given for its values, [N, H] (given_vectors.py), if the
        tower is to read them; tasks: T, the labels besides the click whose logits it gives.
        """
        super().__init__()
        backbone = get_backbone(config.backbone)
        width = backbone.embedding_width(config)
        self.num_fields = len(field_sizes)
        # Without `ctr.history` the history's ids are looked up all the same, as they are part of the rows
        events = history.column_fields if history else []
        self.multi, self.pooling = tuple(multi), config.pooling
        further = [*multi_columns(multi).values()]
        self.num_values = self.num_fields + len(further)
        self.embedding = PackedEmbedding(field_sizes, width, table_rows, [*further, *events])
        read = history if config.history != "none" else None
        self.history = POOLINGS[config.history](width, read.length) if read else None
        self.events = Events(read, self.num_values, width) if read else None
        # Without `ctr.numeric` the numbers are part of the rows, too, and nothing reads them
        self.number_fields = list(numbers) if config.numeric != "buckets" else []
        self.num_ids = self.num_values + len(events)
        self.num_columns = self.num_values + (len(history.columns) if history else 0)
        self.numbers = EMBEDDERS[config.numeric](len(numbers), width, config) if self.number_fields else None
        self.text_projection = TextProjection(len(field_sizes), text_size, width) if text_size else None
        columns = [*range(self.num_fields), *further, *events]
        self.vectors = GivenVectors(vectors, columns, width) if vectors else None
        self.embedding_dropout = config.embedding_dropout
        self.backbone = backbone(self.num_fields + (self.history is not None), config)
        heads = TASK_HEADS[config.tasks] if prediction and tasks else None
        own = prediction and not (heads and heads.heads_the_click)
        self.prediction = self.backbone.build_prediction() if own else None
        self.linear_terms = (
            PackedEmbedding(field_sizes, 1, table_rows, further)
            if prediction and backbone.has_linear_terms
            else None
        )
        width = self.interaction_dim + (self.linear_terms is not None)
        self.tasks = heads(width, tasks, config) if heads else None

    @property
    def interaction_dim(self) -> int:
        return self.backbone.interaction_dim

    def interaction_vector(self, field_ids: Tensor, text_vectors: Tensor | None = None) -> Tensor:
        """Eq. 5: field_ids [B, C + K], and text_vectors [B, F, H] if the tower reads them → q [B, Q]."""
        embeddings, field_embeddings = self._embedded(field_ids)
        if self.text_projection is not None:
            assert text_vectors is not None, "this tower reads the values' texts"
            field_embeddings = field_embeddings + self.text_projection(text_vectors)
        if self.history is not None and self.events is not None:
            pooled = self.history(*self.events(embeddings, field_ids))
            field_embeddings = torch.cat([field_embeddings, pooled.unsqueeze(1)], 1)
        if self.embedding_dropout:
            field_embeddings = F.dropout(field_embeddings, self.embedding_dropout, self.training)
        return self.backbone(field_embeddings)

    def field_embeddings(self, field_ids: Tensor) -> Tensor:
        """Return one embedding per field, before any dropout: field_ids [B, C + K] → [B, F, d]."""
        return self._embedded(field_ids)[1]

    def embedded(self, ids: Tensor, fields: Tensor) -> Tensor:
        """Return the embeddings of ids of the given fields, both of any shape → [..., d]."""
        embeddings = self.embedding(ids, fields)
        return embeddings if self.vectors is None else self.vectors.of(embeddings, ids, fields)

    def _embedded(self, field_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of all ids, [B, C, d], and of the fields, [B, F, d]."""
        ids = field_ids[:, : self.num_ids]
        embeddings = self.embedding(ids)
        if self.vectors is not None:
            embeddings = self.vectors(embeddings, ids)
        return embeddings, self._with_numbers(self.of_fields(embeddings, field_ids), field_ids)

    def _with_numbers(self, field_embeddings: Tensor, field_ids: Tensor) -> Tensor:
        """Put the embeddings of numbers in the places of their buckets', [B, F, d]. A field without a value
        (id 0) keeps the embedding of that.
        """
        if self.numbers is None:
            return field_embeddings
        exact = torch.promote_types(field_embeddings.dtype, torch.float32)
        found = self.numbers(field_ids[:, self.num_columns :].to(exact) / MILLION)
        of_fields = list(field_embeddings.unbind(1))
        for place, field in enumerate(self.number_fields):
            known = field_ids[:, field : field + 1] > 0
            of_fields[field] = torch.where(known, found[:, place], of_fields[field])
        return torch.stack(of_fields, 1)

    def of_fields(self, embeddings: Tensor, field_ids: Tensor) -> Tensor:
        """Return one embedding per field: embeddings [B, C or F + V, d] of field_ids [B, C] → [B, F, d].
        Numbers aren't in them.
        """
        if not self.multi:
            return embeddings[:, : self.num_fields]
        return pooled_fields(embeddings, field_ids, self.num_fields, self.multi, self.pooling)

    def terms(self, field_ids: Tensor) -> Tensor | None:
        """Return the linear terms of the fields, field_ids [B, C] → [B, F, 1]; None if there are none. A
        number's is that of its bucket.
        """
        if self.linear_terms is None:
            return None
        values = field_ids[:, : self.num_values]
        return self.of_fields(self.linear_terms(values), values)

    def logits(self, field_ids: Tensor, interaction_vector: Tensor) -> Tensor:
        """ŷ^CTR of Eq. 9: field_ids [B, C] and their q [B, Q] → ctr_logits [B]; with further tasks
        [B, 1 + T], the click's first. What the tasks share is q, and Σ_j w[x_j] if there are linear terms.
        """
        terms = self.terms(field_ids)
        linear_sum = None if terms is None else terms.sum((1, 2))
        shared = interaction_vector
        if self.tasks is not None and linear_sum is not None:
            shared = torch.cat([shared, linear_sum.unsqueeze(1)], 1)
        if self.prediction is None:
            assert self.tasks is not None, "built without its prediction layer"
            return self.tasks(shared)
        logits = self.prediction(interaction_vector).squeeze(1)
        logits = logits if linear_sum is None else logits + linear_sum
        return logits if self.tasks is None else torch.cat([logits.unsqueeze(1), self.tasks(shared)], 1)

    def forward(self, field_ids: Tensor) -> Tensor:
        """Eq. 10 before the sigmoid: field_ids [B, C] → ctr_logits [B], or [B, 1 + T]."""
        return self.logits(field_ids, self.interaction_vector(field_ids))
