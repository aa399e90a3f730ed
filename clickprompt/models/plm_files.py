"""The files of a PLM: config.json and safetensors weights, in a folder or in the hub's local cache."""

import json
import os
from typing import Any

from huggingface_hub import HfApi, get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache

from clickprompt.config import PLMConfig
from clickprompt.errors import ConfigError
from clickprompt.models.plm_shapes import SHAPES

__all__ = ["check_weights", "config_values", "one_line", "path_of", "weight_files"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def path_of(config: PLMConfig) -> str:
    """Return plm.path as a path or a hub name. Raises ConfigError if it isn't set."""
    if config.path is None:
        raise ConfigError(
            "plm.path is not set; give a hub name, or a local folder with config.json, tokenizer and "
            "safetensors weights"
        )
    return os.path.expanduser(config.path)


def config_values(config: PLMConfig) -> dict[str, Any]:
    """Read config.json; of a hub's model with `random_init`, the shape known here will do.

    Raises ConfigError if there is none, or no JSON object in it.
    """
    path = path_of(config)
    if os.path.isdir(path):
        file = os.path.join(path, "config.json")
        if not os.path.isfile(file):
            raise ConfigError(
                f"plm.path={config.path}: the folder has no config.json; give the folder that holds the "
                "model's files"
            )
    elif path.startswith((".", os.sep)) or path.count("/") > 1:
        raise ConfigError(
            f"plm.path={config.path}: no such folder; give a hub name, or a local folder with config.json "
            "and weights"
        )
    elif config.random_init and path in SHAPES and not _cached(path, "config.json"):
        return SHAPES[path]
    else:
        file = _hub_config(path)
    return _read_object(file, config.path)


def check_weights(path: str) -> None:
    """Raises ConfigError if a folder or a hub's model has no safetensors file."""
    names = os.listdir(path) if os.path.isdir(path) else _hub_names(path)
    if any(name in names for name in _WEIGHTS):
        return
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    found = (
        f"its weights ({pickled[0]}) are a pickle, which is never loaded"
        if pickled
        else "the folder has no weights"
    )
    raise ConfigError(
        f"plm.path={path}: {found}; put model.safetensors there, or set plm.random_init=true for an "
        "untrained model of this architecture"
    )


def weight_files(path: str) -> list[str]:
    """Return local paths of a PLM's files of weights; a hub's are fetched if the cache lacks them.

    Raises ConfigError for an index that names no files beside it.
    """

    def local(name: str) -> str:
        return os.path.join(path, name) if os.path.isdir(path) else hf_hub_download(path, name)

    single, index = _WEIGHTS
    if single in (os.listdir(path) if os.path.isdir(path) else _hub_names(path)):
        return [local(single)]
    places = _read_object(local(index), path).get("weight_map")
    names = list(places.values()) if isinstance(places, dict) else []
    if not names or any(not isinstance(name, str) or os.path.basename(name) != name for name in names):
        raise ConfigError(f"plm.path={path}: {index} doesn't name files beside it; get the model again")
    return [local(name) for name in sorted(set(names))]


def _read_object(file: str, path: str | None) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8") as stream:
            values = json.load(stream)
        if not isinstance(values, dict):
            raise ValueError(f"{type(values).__name__} in place of an object")
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"plm.path={path}: {os.path.basename(file)} is not valid JSON ({one_line(error)}); get the model "
            "again"
        ) from error
    return values


def _cached(name: str, *files: str) -> str | None:
    """Path of the first of `files` that is in the hub's local cache; None if none is."""
    found = (try_to_load_from_cache(name, file) for file in files)
    return next((path for path in found if isinstance(path, str)), None)


def _hub_config(name: str) -> str:
    """Return the local path of the hub model's config.json; fetch it if the cache lacks it."""
    try:
        if path := _cached(name, "config.json"):
            return path
        # A plain request first: the hub client itself would try an unreachable host for half a minute
        get_session().head(hf_hub_url(name, "config.json"), timeout=10)
        return hf_hub_download(name, "config.json")
    except Exception as error:  # the client raises its own errors and those of httpx
        raise _unreachable(name, error) from error


def _hub_names(name: str) -> list[str]:
    """Return the file names of a hub model; if the cache has its weights, the hub isn't asked."""
    if path := _cached(name, *_WEIGHTS):
        return [os.path.basename(path)]
    try:
        return HfApi().list_repo_files(name)
    except Exception as error:  # as above
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: BaseException) -> ConfigError:
    return ConfigError(
        f"plm.path={name}: no such folder, not in the local Hugging Face cache, and the hub did not give it "
        f"({one_line(error)[:200]}); check the name and the network, or download the model and give its "
        "folder"
    )


def one_line(error: BaseException) -> str:
    """Return what an error of a library says."""
    return " ".join(str(error).split())
