"""The YAML in which schemas are written."""

import re
from typing import Any

import yaml

from clickprompt.io.bounded_yaml import BoundedYaml

__all__ = ["PlainYaml"]


class PlainYaml(BoundedYaml):
    """YAML read by version 1.2: `no`, `on`, dates, `1_000`, `1:30` and `007` are the texts that they look
    like.
    """

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        found = super().construct_scalar(node)
        if isinstance(found, str) and re.search("[\ud800-\udfff]", found):
            raise yaml.constructor.ConstructorError(
                None, None, f"{found!r} holds half a surrogate pair, which is not text", node.start_mark
            )
        return found

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} is there twice", node.start_mark
            )
        for key, _ in node.value:  # 1 and true are two keys, but would be one in a dict
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


_NUMBER = r"(0|[1-9][0-9]*)"
PlainYaml.yaml_implicit_resolvers = {}
for _tag, _expression, _first in (
    ("bool", "true|false", "tf"),
    ("null", "null|~|", "n~"),
    ("int", f"[-+]?{_NUMBER}", "-+0123456789"),
    ("float", rf"[-+]?({_NUMBER}(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("merge", "<<", "<"),
):
    _firsts = [*_first, ""] if _tag == "null" else [*_first]
    PlainYaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_expression})$"), _firsts)
