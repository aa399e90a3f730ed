"""Compile the PLM's forward and backward pass (`runtime.compile`).

The whole PLM is one graph (tests/models/test_one_graph.py) with sizes that may differ from batch to batch, so
it is compiled once and not for each layer or width.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING

from clickprompt.config import RuntimeConfig
from clickprompt.errors import ConfigError

if TYPE_CHECKING:  # the driver checks before it needs torch
    from clickprompt.models.clickprompt import ClickPrompt

__all__ = ["check_compiler", "compile_plm", "width_multiple"]


def check_compiler(runtime: RuntimeConfig) -> None:
    """Raise ConfigError if this machine has no compiler for the code that torch.compile writes."""
    if runtime.compile == "off":
        return
    if runtime.gpus_per_worker:
        found, what = importlib.util.find_spec("triton"), "triton, which comes with torch's CUDA build"
    else:
        compiler = os.environ.get("CXX", "g++")
        found, what = shutil.which(compiler), f"a C++ compiler, {compiler}; install it, or set CXX to another"
    if not found:
        raise ConfigError(f"runtime.compile={runtime.compile} needs {what}, or leave runtime.compile out")


def width_multiple(runtime: RuntimeConfig) -> int:
    """Return the number of tokens of which a batch's width is a multiple: a CUDA graph is of one size, so
    there should be few sizes, and a tensor core takes 16 at a time.
    """
    return 16 if runtime.compile == "max-autotune" else 1


def compile_plm(model: ClickPrompt, runtime: RuntimeConfig) -> None:
    """Have torch compile the PLM when it is first called; names of parameters stay as they are."""
    if runtime.compile == "off" or model.plm is None:
        return
    check_compiler(runtime)
    mode = None if runtime.compile == "default" else runtime.compile
    model.plm.compile(fullgraph=True, dynamic=True, mode=mode)
