"""Settings of each baseline for the tiny PLM, and what its tests of equations share."""

import os

import numpy as np
import torch

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from tests.support.tiny import write_both, write_plm

SETTINGS = {
    "ctr_bert": {
        "baseline": "ctr_bert",
        "prompt.num_prompts": 0,
        "ctr_bert.item_fields": ["Movie ID", "Film genre"],
    },
    "ctrl": {
        "baseline": "ctrl",
        "prompt.num_prompts": 0,
        "finetune.with_plm": False,
        "ctr.backbone": "autoint",
        "ctrl.size": 6,
    },
    "p5": {"baseline": "p5", "prompt.num_prompts": 0, "p5.answers": [4, 5]},
    "ptab": {"baseline": "ptab", "prompt.num_prompts": 0},
}


def dotted(name: str) -> dict[str, object]:
    """The same for `tiny_config`."""
    return {key.replace(".", "__"): value for key, value in SETTINGS[name].items()}


def write_all(folder: str) -> tuple[Dataset, dict[str, str]]:
    """The synthetic dataset, and a tiny PLM's folder by baseline, with their token tables: P5 has a T5."""
    dataset, bert = write_both(folder)
    t5 = write_plm(os.path.join(folder, "t5"), "t5")
    build_token_table(dataset, load_tokenizer(t5))
    return dataset, {name: t5 if name == "p5" else bert for name in SETTINGS}


INPUT_IDS = torch.tensor([[2, 7, 9, 11, 3], [2, 8, 3, 0, 0], [2, 5, 6, 3, 0]])
MASK = (INPUT_IDS > 0).long()
FIELD_IDS = torch.zeros(3, 4, dtype=torch.int64)
SIZES = [31, 3, 41, 7]


def drawn(model):
    """Weights far from 0, biases too, in float64."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model.eval()


def click_head(head, pooled: np.ndarray) -> list[float]:
    """Eq. 8's MLP for vectors [B, H], number by number."""
    weight, bias = head.dense.weight.tolist(), head.dense.bias.tolist()
    (last,), (start,) = head.prediction.weight.tolist(), head.prediction.bias.tolist()
    logits = []
    for vector in pooled.tolist():
        hidden = [
            np.tanh(b + sum(w * x for w, x in zip(row, vector, strict=True)))
            for row, b in zip(weight, bias, strict=True)
        ]
        logits.append(start + sum(w * h for w, h in zip(last, hidden, strict=True)))
    return logits
