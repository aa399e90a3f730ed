"""YAML of strangers: plain values only (SafeLoader), and no few lines that stand for a billion."""

import yaml

__all__ = ["BoundedYaml"]

_MOST = 1_000_000  # values, with those that aliases repeat


class BoundedYaml(yaml.SafeLoader):
    """Raises yaml.YAMLError for a file whose aliases (`*name`) stand for too much, or for themselves."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > _MOST:
            raise yaml.constructor.ConstructorError(
                None, None, f"its aliases stand for more than {_MOST:,} values", node.start_mark
            )
        return node


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node is, aliases written out; more than _MOST for one that contains itself."""
    if id(node) not in known:
        known[id(node)] = _MOST + 1
        entries = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for entry in entries for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
