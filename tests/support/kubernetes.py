"""Kubernetes' structural schemas as JSON Schema that refuses unknown fields, which an API server would drop
in silence.
"""

import functools
import os
from typing import Any

import jsonschema
import yaml


def problems(document: Any, schema: dict[str, Any]) -> list[str]:
    """What is wrong with a document, a line each; [] where nothing is."""
    return [
        f"{error.json_path}: {error.message}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
    ]


@functools.cache
def crd_schema(folder: str, plural: str) -> dict[str, Any]:
    """The schema of the custom resource `<plural>.ray.io`, version v1."""
    with open(os.path.join(folder, f"ray.io_{plural}.yaml")) as stream:
        definition = yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, which a CRD doesn't repeat
    return schema


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """additionalProperties: false where properties are listed and others aren't let in; what is an integer or
    a string may be either.
    """
    found = dict(schema)
    if found.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    if "properties" in found:
        found["properties"] = {name: strict(value) for name, value in found["properties"].items()}
        if not found.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    if isinstance(found.get("additionalProperties"), dict):
        found["additionalProperties"] = strict(found["additionalProperties"])
    if "items" in found:
        found["items"] = strict(found["items"])
    return found
