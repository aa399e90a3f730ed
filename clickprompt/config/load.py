"""Read a configuration from presets, YAML files and dotted `--set` overrides, and explain what is wrong with
it.

Nothing here imports torch or ray, so a mistake is reported in well under a second.
"""

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from clickprompt.config.describe import section_of
from clickprompt.config.mistakes import section_mistake, unknown_key, validated
from clickprompt.config.schema import Config
from clickprompt.errors import ConfigError
from clickprompt.io import storage
from clickprompt.io.bounded_yaml import BoundedYaml

__all__ = [
    "check_key",
    "dump_config",
    "load_config",
    "load_settings",
    "preset_names",
    "replaced",
    "stored_config",
    "value_of",
]

_Model = TypeVar("_Model", bound=BaseModel)

# Stored runs may hold this section; its tool has settings of its own now (benchmark/faults/settings.py)
_TAKEN_OUT = "faults"
_KEY_TAKEN_OUT = "with_plm_steps"  # of pipeline: a stage's own max_steps has it


def preset_names() -> list[str]:
    """Return the names that `--config` takes besides a file's path."""
    folder = resources.files("clickprompt.config") / "presets"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_config(config: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a preset or YAML file and apply dotted overrides such as ``pretrain.lr.plm=3e-5``.

    Raises ConfigError for an unknown preset, file, key (the nearest known key is named) or an impossible
    value.
    """
    return load_settings(Config, config, overrides)


def load_settings(model: type[_Model], config: str | None, overrides: Iterable[str]) -> _Model:
    """Read the settings of `model`, a tool's own, as `load_config` reads a run's."""
    values = _read(config) if config else {}
    mistakes = []
    for override in overrides:
        try:
            _override(values, override)
        except ConfigError as error:
            mistakes.append(str(error))
    return validated(model, values, mistakes)


def stored_config(values: Mapping[str, Any]) -> Config:
    """Return the configuration that a run or an export has stored. Raises ConfigError for one that this
    version doesn't know.
    """
    return validated(Config, _as_now(values))


def replaced(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy of `config` with dotted keys changed, such as ``{"pretrain.lr.plm": 3e-5}``, validated as
    by `load_config`.
    """
    values = config.model_dump()
    for key, value in changes.items():
        _assign(values, key, value)
    return validated(Config, values)


def check_key(dotted: str) -> None:
    """Raise ConfigError, which names the nearest key, unless `dotted` is a key that has a value."""
    model: type[BaseModel] = Config
    names = dotted.split(".")
    for depth, name in enumerate(names, 1):
        field, above = model.model_fields.get(name), ".".join(names[:depth])
        if field is None:
            raise ConfigError(unknown_key(above, Config, "config key"))
        section = section_of(field)
        if section is None:
            return  # what is below a value is its own
        if depth == len(names):
            raise ConfigError(section_mistake(dotted, dotted, section))
        model = section


def value_of(config: Config, dotted: str) -> Any:
    """Return the value of a known key."""
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def dump_config(config: Config) -> str:
    """Return the resolved configuration as YAML; `load_config` reads it back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read(config: str) -> dict[str, Any]:
    if config in preset_names():
        content = (resources.files("clickprompt.config") / "presets" / f"{config}.yaml").read_bytes()
    elif config.endswith((".yaml", ".yml")):
        content = storage.read_bytes(config)
    else:
        raise ConfigError(
            f"--config {config}: neither a YAML file nor a preset; presets: {', '.join(preset_names())}"
        )
    try:
        values = yaml.load(content.decode(), Loader=BoundedYaml) or {}  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"--config {config}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"--config {config}: the top level must be a mapping of sections, such as 'prompt:'"
        )
    return _as_now(values)


def _as_now(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run or a file has stored, without the section and the key that were taken out, and with
    a stage's `decay_embeddings: false` as the `tables_weight_decay: 0` that it means.
    """
    now = {name: value for name, value in values.items() if name != _TAKEN_OUT}
    if isinstance(now.get("pipeline"), dict):
        now["pipeline"] = {key: value for key, value in now["pipeline"].items() if key != _KEY_TAKEN_OUT}
    for name in ("pretrain", "finetune"):
        if isinstance(now.get(name), dict) and "decay_embeddings" in now[name]:
            stage = dict(now[name])
            now[name] = stage if stage.pop("decay_embeddings") else {**stage, "tables_weight_decay": 0.0}
    return now


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override}: expected key=value, such as --set prompt.num_prompts=3")
    _assign(values, key.strip(), _parse_value(override, text))


def _parse_value(override: str, text: str) -> Any:
    try:
        return yaml.load(text, Loader=BoundedYaml)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for depth, parent in enumerate(parents):
        below = values.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {dotted}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        values = below
    values[last] = value
