"""After an upgrade of Ray: which of its private names is gone."""

import importlib
import inspect

import pytest

from clickprompt.runtime import compat


@pytest.mark.parametrize("name", sorted(compat.NAMES))
def test_ray_has_the_name(name):
    assert getattr(importlib.import_module(compat.NAMES[name]), name) is getattr(compat, name)


@pytest.mark.parametrize(
    ("path", "member"), [(path, member) for path, members in compat.MEMBERS.items() for member in members]
)
def test_rays_class_has_the_member(path, member):
    """Defined on the class, or set by its methods."""
    module, name = path.split(":")
    found = getattr(importlib.import_module(module), name)
    assert (
        hasattr(found, member)
        or any(f"self.{member}" in inspect.getsource(base) for base in found.__mro__ if base is not object)
        or member in getattr(found, "__annotations__", {})
    )


def test_every_exported_name_is_there():
    assert set(compat.NAMES) < set(compat.__all__)
    with pytest.raises(AttributeError, match="has no attribute nothing"):
        _ = compat.nothing
