"""The loop's validation without a pool: the weights are scored at once, by this process; what is found is
used as late as ever.
"""

import torch

from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import load_matching
from clickprompt.objectives import model_inputs
from clickprompt.training.engine import all_reduce_sum


class InProcessValidation:
    def __init__(self, engine, collator, dataset, config, objective):
        self.every, self.patience = config.finetune.validate_every, config.finetune.patience
        self.stop_on = config.finetune.stop_on
        self._engine, self._rows = engine, collator(columns_of(dataset.read_split("valid")), epoch=0)
        text_size = collator.text_vectors and collator.text_vectors.size
        self._build = lambda: build_model(
            config, layout_of(dataset), objective=objective, text_size=text_size
        )

    def begin(self, step):
        weights = self._engine.weights()  # a collective in ZeRO 3, in the middle of training
        self._scores = torch.zeros(2, dtype=torch.float64)
        if self._engine.rank:
            return
        model = self._build().eval()
        assert load_matching(model, weights) == []
        with torch.no_grad():
            logits = model(*model_inputs(self._rows)).numpy()
        logits = logits[:, 0] if model.tasks else logits
        labels = self._rows.labels.numpy()
        weights = None if self._rows.importance is None else self._rows.importance.numpy()
        scores = [figure(labels, logits, weights) for figure in (auc, log_loss)]
        self._scores = torch.tensor(scores, dtype=torch.float64)

    def result(self):
        return dict(
            zip(
                ("valid_auc", "valid_log_loss"),
                all_reduce_sum(self._scores.to(self._engine.device)).tolist(),
                strict=True,
            )
        )
