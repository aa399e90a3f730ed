"""Write the adapters of a run trained with `plm.lora` as peft's files, apart from the PLM that they are of.

`adapter_config.json` and `adapter_model.safetensors`: `PeftModel.from_pretrained(AutoModel.from_pretrained(
plm.path), folder)` reads them. The CTR tower, the prompts and the heads aren't part of it.
"""

import os
import tempfile
from typing import Any

import torch

from clickprompt.config import PromptConfig, replaced, stored_config
from clickprompt.errors import DataError, InputError
from clickprompt.export.format import export_of, load_weights, read_info
from clickprompt.io import storage
from clickprompt.io.folders import clear_unfinished, new_folder
from clickprompt.models.tensor_file import write_tensors

__all__ = ["ADAPTER", "export_adapter"]

ADAPTER = "adapter"
"""its name as a format of `clickprompt export`"""

_BACKBONE = "plm.backbone."


def export_adapter(run: str, out: str) -> dict[str, Any]:
    """Write a run's adapters to the new folder `out`, and return what is there.

    Raises InputError if `out` exists; DataError if the run has no adapters, or they are of a PLM that isn't
    that of `plm.path`, because an earlier run trained all of it.
    """
    if storage.exists(out) and not clear_unfinished(out):
        raise InputError(f"{out}: exists already; choose another folder")
    export = export_of(run)
    info = read_info(export)
    config = stored_config(info.config)
    lora = config.plm.lora
    if not lora.rank or info.plm is None:
        raise DataError(f"{run}: trained without plm.lora, so it has no adapters; use --format safetensors")
    # transformers' models take seconds to import
    from clickprompt.models.plm_loading import load_plm
    from clickprompt.models.plm_lora import adapter_config, adapter_tensors, base_tensors

    if config.plm.random_init:
        raise DataError(f"{run}: its PLM began with random weights, which nobody has to put adapters into")
    tensors = load_weights(export, _BACKBONE)
    plain = load_plm(
        replaced(config, {"plm.lora.rank": 0}).plm, PromptConfig(num_prompts=0), lm_head=False
    ).state_dict()
    for name, tensor in base_tensors(tensors).items():
        if not torch.equal(tensor, plain[name.removeprefix("plm.")]):
            raise DataError(
                f"{run}: its adapters are of a PLM that was trained as a whole before ({name} isn't that of "
                f"{config.plm.path}); use --format safetensors, which has the whole model"
            )
    model_type = info.plm["model_type"]
    written = adapter_tensors(tensors, _BACKBONE)
    with new_folder(out) as work, tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        write_tensors(os.path.join(folder, "adapter_model.safetensors"), written, {"format": "pt"})
        described = adapter_config(lora, model_type, config.plm.path)
        storage.write_json(os.path.join(folder, "adapter_config.json"), described)
        storage.copy_tree(folder, work)
    parameters = sum(tensor.numel() for tensor in written.values())
    return {"path": out, "format": ADAPTER, "parameters": parameters, "base": config.plm.path}
