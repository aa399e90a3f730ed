"""The folder that a finetuning leaves, without training."""

import os
from dataclasses import replace

import torch

from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.template import load_tokenizer, tokenizer_fingerprint
from clickprompt.export.format import write_export
from clickprompt.models.build import build_model
from clickprompt.training.engine import weights_of
from tests.support.tiny import tiny_config


def write_run(run: str, prepared, objective="without_plm", **settings) -> torch.nn.Module:
    """As a finetuning leaves it; what it would have learned is drawn, so that logits differ from row to
    row.
    """
    dataset, plm = prepared
    config = tiny_config(dataset.uri, plm, **settings)
    layout = replace(layout_of(dataset), vectors=dict)  # an export has them in its table
    model = build_model(config, layout, objective=objective).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    tokenizer = load_tokenizer(plm) if model.plm is not None else None
    write_export(
        os.path.join(run, "export"),
        weights_of(model),
        plm=model.plm.config_dict() if model.plm is not None else None,
        objective=objective,
        config=config,
        dataset=dataset,
        tokenizer=tokenizer,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer, dataset.template) if tokenizer else None,
        step=1,
    )
    return model
