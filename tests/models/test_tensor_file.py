"""Files written tensor by tensor are read by the safetensors package."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from clickprompt.models.tensor_file import write_tensors


@pytest.mark.parametrize("metadata", [{}, {"about": "two"}])
def test_what_is_written_is_read(tmp_path, metadata):
    whole = torch.arange(12.0).view(3, 4)
    tensors = {
        "table": whole,
        "strided": whole[:, ::2],
        "number": torch.tensor(3.5),
        "nothing": torch.empty(0, 4),
        "half": whole.half(),
        "bf16": whole.bfloat16(),
        "double": whole.double(),
        "long": whole.long(),
        "int": whole.int(),
    }
    path = str(tmp_path / "file.safetensors")
    write_tensors(path, tensors, metadata)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].equal(tensor), name
    with safe_open(path, "pt") as file:
        assert (file.metadata() or {}) == metadata
