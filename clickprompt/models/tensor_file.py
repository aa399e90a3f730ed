"""Write safetensors files tensor by tensor. The package's own writer needs copies of all of them at once."""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["write_tensors"]

_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint8: "U8",
}


def write_tensors(path: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors on any device; those that aren't contiguous are copied one at a time."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (math.ceil(len(text) / 8) * 8 - len(text))  # aligns the tensors
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for tensor in tensors.values():
            stream.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
