"""DCNv2 built from FuxiCTR's layers and trained by FuxiCTR's own step: ctr-step's third arm, if FuxiCTR is
installed.
"""

from typing import Any

import torch
from torch import Tensor, nn

from clickprompt.benchmark.ctr_arms import Shape, Steps
from clickprompt.config import Config
from clickprompt.data.batch import Batch
from clickprompt.models.build import build_model

__all__ = ["FuxiCTRSteps"]


class FuxiCTRSteps(Steps):
    """The same DCNv2 with the same weights, with Adam and clipping as FuxiCTR does them."""

    def __init__(self, config: Config, shape: Shape, steps_per_turn: int) -> None:
        super().__init__(config, shape, steps_per_turn)
        self._model = _model(config, shape)
        names = [f"field_{index}" for index in range(len(shape.field_sizes))]
        columns = [
            dict(zip(names, batch.field_ids.T.contiguous(), strict=True)) | {"label": batch.labels}
            for batch in self._batches
        ]
        self._columns = {id(batch): inputs for batch, inputs in zip(self._batches, columns, strict=True)}

    def _step(self, batch: Batch) -> Tensor:
        return self._model.train_step(self._columns[id(batch)]).detach() * len(batch)


def _model(config: Config, shape: Shape) -> Any:
    from fuxictr.features import FeatureMap  # pyright: ignore[reportMissingImports]
    from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block  # pyright: ignore[reportMissingImports]
    from fuxictr.pytorch.models import BaseModel  # pyright: ignore[reportMissingImports]

    class Model(BaseModel):
        def __init__(self) -> None:
            fields = FeatureMap("made-up", ".")
            fields.labels = ["label"]
            fields.features.update(
                {
                    f"field_{i}": {"type": "categorical", "vocab_size": size}
                    for i, size in enumerate(shape.field_sizes)
                }
            )
            super().__init__(fields, verbose=0, model_root=".", metrics=[])
            ctr = config.ctr
            width = ctr.embedding_dim * len(shape.field_sizes)
            self.embedding = FeatureEmbedding(fields, ctr.embedding_dim)
            self.cross = CrossNetV2(width, ctr.num_layers)
            self.deep = MLP_Block(width, list(ctr.deep_dims), "ReLU", dropout_rates=ctr.dropout)
            self.prediction = nn.Linear(width + ctr.deep_dims[-1], 1)
            self._max_gradient_norm = config.finetune.max_grad_norm

        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            x = self.embedding(self.get_inputs(inputs), flatten_emb=True)
            logits = self.prediction(torch.cat([self.cross(x), self.deep(x)], dim=-1))
            return {"y_pred": self.output_activation(logits)}

    model = Model().train()
    _copy_weights(build_model(config, shape.layout, objective="without_plm"), model, shape.field_sizes)
    model.compile("adam", "binary_crossentropy", config.finetune.lr.ctr)
    return model


@torch.no_grad()
def _copy_weights(ours: Any, theirs: nn.Module, field_sizes: tuple[int, ...]) -> None:
    tables = [module for module in theirs.modules() if isinstance(module, nn.Embedding)]
    for table, rows in zip(tables, ours.ctr.embedding.weight.split(list(field_sizes)), strict=True):
        table.weight.copy_(rows)
    for module, source in zip(_linears(theirs), _linears(ours.ctr), strict=True):
        module.weight.copy_(source.weight)
        module.bias.copy_(source.bias)


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]
