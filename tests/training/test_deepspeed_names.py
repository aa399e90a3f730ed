"""After an upgrade of DeepSpeed: which of the names that its documentation doesn't promise is gone."""

import importlib
import inspect

import pytest

from clickprompt.training.deepspeed_engine import PRIVATE_NAMES


@pytest.mark.parametrize(
    ("path", "member"), [(path, member) for path, members in PRIVATE_NAMES.items() for member in members]
)
def test_deepspeeds_class_has_the_member(path, member):
    """Defined on the class or a base of it, or set by their methods."""
    module, name = path.split(":")
    found = getattr(importlib.import_module(module), name)
    sources = (inspect.getsource(base) for base in found.__mro__ if base.__module__.startswith("deepspeed"))
    assert hasattr(found, member) or any(f"self.{member}" in source for source in sources)
