"""Find, check and load a PromptedPLM's config and weights, from a hub name or a folder."""

import copy
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import HfApi, get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging
from transformers.utils.import_utils import is_flash_attn_2_available

from clickprompt.config import LMKind, PLMConfig, PromptConfig
from clickprompt.errors import ConfigError
from clickprompt.io import storage
from clickprompt.models.divided import Division
from clickprompt.models.plm import PromptedPLM, longest_text
from clickprompt.models.plm_divided import drawn, read, stored_dtypes, tensors_of
from clickprompt.models.plm_families import PLMFamily, get_family
from clickprompt.models.plm_fusion import ATTENTION
from clickprompt.models.plm_lora import add_adapters, check_adapters
from clickprompt.models.plm_shapes import SHAPES

__all__ = ["PLMFacts", "check_plm", "load_plm", "plm_facts", "plm_fingerprint", "plm_from_config"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PLMFacts:
    """Facts about a PLM that are known before its weights are read."""

    model_type: str
    lm_kind: LMKind
    num_layers: int
    hidden_size: int
    max_tokens: int


def check_plm(config: PLMConfig, prompt: PromptConfig | None = None) -> PLMFacts:
    """Check plm.path without reading weights: config.json, family, depth and weight files.

    Raises ConfigError.
    """
    prompt = prompt or PromptConfig()
    hf_config, family = _read_config(config, prompt)
    if not config.random_init:
        _check_weights(_path(config))
    if config.lora.rank:
        check_adapters(hf_config, family, config.lora)
    return _facts(hf_config, family, prompt)


def plm_facts(hf_config: dict[str, Any]) -> PLMFacts:
    """Return the facts about an export's PLM (`PromptedPLM.config_dict`)."""
    return _facts(*_parse_config(hf_config, "export"), PromptConfig())


def _facts(hf_config: Any, family: PLMFamily, prompt: PromptConfig) -> PLMFacts:
    return PLMFacts(
        model_type=hf_config.model_type,
        lm_kind=family.lm_kind,
        num_layers=sum(getattr(hf_config, key) for key in family.depth),
        hidden_size=hf_config.hidden_size,
        max_tokens=longest_text(hf_config, family, prompt),
    )


def plm_fingerprint(config: PLMConfig, seed: int) -> str:
    """Return the sha256 over what decides on the PLM's hidden states: architecture, layers kept, dtype, and
    its files of weights (with random_init: the seed of the weights). Raises ConfigError.
    """
    hf_config, _ = _read_config(config, PromptConfig(num_prompts=0))
    weights = seed if config.random_init else [storage.sha256(file) for file in _weight_files(_path(config))]
    return storage.sha256_bytes(json.dumps([hf_config.to_json_string(), config.dtype, weights]).encode())


def load_plm(
    config: PLMConfig,
    prompt: PromptConfig | None = None,
    *,
    lm_head: bool = True,
    division: Division | None = None,
) -> PromptedPLM:
    """Load plm.path (safetensors only, in plm.dtype), or draw new weights if `random_init` is set.

    An LM head that the checkpoint lacks is initialised from torch's global random state. With `division` the
    parameters, adapters apart, are divided among the workers as they come into being; not those of files that
    have plm.dtype, which are mapped: a whole PLM of them takes no memory. Raises ConfigError.
    """
    prompt = prompt or PromptConfig()
    hf_config, family = _read_config(config, prompt)
    if config.random_init:
        with drawn(division) if division else nullcontext():
            model = _from_config(hf_config, family, config)
        return _prompted(model, family, config, prompt, lm_head)
    path = _path(config)
    _check_weights(path)
    if division and stored_dtypes(_weight_files(path)) == {getattr(torch, config.dtype)}:
        division = None
    model_class = _own_class(hf_config, family) if division else family.auto_class
    with _quiet(), read(division) if division else nullcontext():
        try:
            model, info = model_class.from_pretrained(
                None if division else path,
                state_dict=tensors_of(_weight_files(path)) if division else None,
                config=hf_config,
                attn_implementation=ATTENTION[config.attn_implementation],
                dtype=getattr(torch, config.dtype),
                use_safetensors=True,
                output_loading_info=True,
                # Otherwise transformers would ask the hub, and offline use would fail
                local_files_only=os.path.isdir(path) or bool(_cached(path, *_WEIGHTS)),
            )
        except (OSError, RuntimeError, ValueError, ImportError, SafetensorError) as error:
            raise ConfigError(
                f"plm.path={config.path}: the weights can't be loaded ({_one_line(error)}); get the model "
                "again"
            ) from error
    below = f"{family.backbone}." if family.backbone else ""
    missing = [name for name in info["missing_keys"] if name.startswith(below)]
    if missing:
        layers = sum(getattr(hf_config, key) for key in family.depth)
        raise ConfigError(
            f"plm.path={config.path}: its safetensors file lacks {len(missing)} tensors of a "
            f"{hf_config.model_type} of {layers} layers, such as {min(missing)}; get the model again, or set "
            "plm.num_layers to what it holds"
        )
    if lm_head and info["missing_keys"]:
        _log.info("%s has no LM head of its own; the head's transform starts from fresh weights", config.path)
    return _prompted(model, family, config, prompt, lm_head, frozenset(info["missing_keys"]))


def plm_from_config(
    hf_config: dict[str, Any], config: PLMConfig, prompt: PromptConfig, *, lm_head: bool = True
) -> PromptedPLM:
    """Build the architecture of `PromptedPLM.config_dict` with new weights; an export brings its own.

    Raises ConfigError.
    """
    hf_object, family = _parse_config(hf_config, config.path or "export")
    return _prompted(_from_config(hf_object, family, config), family, config, prompt, lm_head)


def _prompted(
    model: PreTrainedModel,
    family: PLMFamily,
    config: PLMConfig,
    prompt: PromptConfig,
    lm_head: bool,
    fresh: frozenset[str] = frozenset(),
) -> PromptedPLM:
    """fresh: names of the weights that the checkpoint lacks."""
    if config.lora.rank:
        if lm_head:
            # The head's vocabulary matrix is as large as the embeddings, which it often is: frozen with them
            output: Any = model.get_output_embeddings()  # None if it was loaded without a head
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            if output is not None and names[id(output.weight)] not in fresh:
                output.weight.requires_grad_(False)
        add_adapters(model.get_submodule(family.backbone), family, config.lora)
    chooses_positions = config.last_layer == "targets"
    plm = PromptedPLM(model, family, prompt, lm_head=lm_head, chooses_positions=chooses_positions)
    if config.gradient_checkpointing:
        # Reentrant checkpointing would go back through the projector once per layer, but the projector's
        # graph is gone after the first time
        plm.backbone.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False},
            every_n_layers=config.gradient_checkpointing,
        )
    return plm.train()  # from_pretrained leaves it in eval mode


def _from_config(hf_config: PreTrainedConfig, family: PLMFamily, config: PLMConfig) -> PreTrainedModel:
    with _quiet():
        return family.auto_class.from_config(
            hf_config,
            attn_implementation=ATTENTION[config.attn_implementation],
            dtype=getattr(torch, config.dtype),
        )


def _own_class(hf_config: PreTrainedConfig, family: PLMFamily) -> Any:
    """Return the class of a model, which takes tensors in place of a path; an auto class doesn't."""
    with torch.device("meta"):
        return type(family.auto_class.from_config(copy.deepcopy(hf_config)))


def _is_layerwise(prompt: PromptConfig) -> bool:
    return prompt.num_prompts > 0 and prompt.prompt_depth == "layerwise"


def _path(config: PLMConfig) -> str:
    if config.path is None:
        raise ConfigError(
            "plm.path is not set; give a hub name, or a local folder with config.json, tokenizer and "
            "safetensors weights"
        )
    return os.path.expanduser(config.path)


def _read_config(config: PLMConfig, prompt: PromptConfig) -> tuple[PreTrainedConfig, PLMFamily]:
    """Read the configuration as it will be built, and its family. Raises ConfigError if it can't be built."""
    hf_config, family = _parse_config(_config_values(config), _path(config))
    _cut_layers(hf_config, family, config)
    _check_flash(hf_config, config, prompt)
    if config.pooling == "cls" and family.lm_kind != "masked":
        raise ConfigError(
            f"plm.pooling=cls: the first token of a {hf_config.model_type} sees no other; use last or mean, "
            "or leave it out"
        )
    if family.position_bias and config.last_layer == "targets":
        raise ConfigError(
            f"plm.last_layer=targets: the position biases of a {hf_config.model_type} are those of a text's "
            "whole length; use plm.last_layer=full"
        )
    if config.click_text and family.lm_kind != "masked":
        raise ConfigError(
            f"plm.click_text=true: a {hf_config.model_type} ({family.lm_kind} language modelling) fills in "
            "no [MASK]; use a masked language model such as BERT, or leave it out"
        )
    return hf_config, family


def _config_values(config: PLMConfig) -> dict[str, Any]:
    path = _path(config)
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
    try:
        with open(file, encoding="utf-8") as stream:
            return json.load(stream)
    except ValueError as error:
        raise ConfigError(
            f"plm.path={config.path}: config.json is not valid JSON ({_one_line(error)}); get the model again"
        ) from error


def _parse_config(values: dict[str, Any], path: str) -> tuple[PreTrainedConfig, PLMFamily]:
    family = get_family(values.get("model_type"), path)
    if (
        family.position_bias
        and values.get("scale_decoder_outputs", values.get("tie_word_embeddings")) is False
    ):
        # transformers' configuration forgets it, and an export would be read as the other kind
        raise ConfigError(
            f"plm.path={path}: a {values['model_type']} with an output matrix of its own (T5 1.1, Flan-T5) "
            "isn't supported; use one that is tied to the embeddings, such as google-t5/t5-base"
        )
    hf_config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
    for key, value in family.config_changes.items():
        setattr(hf_config, key, value)
    return hf_config, family


def _cut_layers(hf_config: Any, family: PLMFamily, config: PLMConfig) -> None:
    """Cut each stack to `plm.num_layers`."""
    if config.num_layers is None:
        return
    for key in family.depth:
        if config.num_layers > getattr(hf_config, key):
            raise ConfigError(
                f"plm.num_layers={config.num_layers}: {config.path} has {getattr(hf_config, key)} layers; "
                "use at most that many"
            )
        setattr(hf_config, key, config.num_layers)
    if getattr(hf_config, "layer_types", None):
        hf_config.layer_types = hf_config.layer_types[: config.num_layers]


def _check_flash(hf_config: Any, config: PLMConfig, prompt: PromptConfig) -> None:
    if config.attn_implementation != "flash":
        return
    if config.last_layer == "targets":
        raise ConfigError(
            "plm.last_layer=targets: flash attention takes queries at some positions for a text's last; use "
            "plm.attn_implementation=sdpa, or plm.last_layer=full"
        )
    if hf_config.model_type == "t5":
        raise ConfigError(
            "plm.attn_implementation=flash: the kernel takes no position biases, which a t5 has; use sdpa"
        )
    if not is_flash_attn_2_available():
        raise ConfigError(
            "plm.attn_implementation=flash: the flash-attn package or a GPU that it runs on is missing; use "
            "sdpa"
        )
    if _is_layerwise(prompt) and "sliding_attention" in (getattr(hf_config, "layer_types", None) or ()):
        raise ConfigError(
            f"plm.attn_implementation=flash: the kernel's window would cut {hf_config.model_type}'s prompts "
            "off; use sdpa"
        )


def _check_weights(path: str) -> None:
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


def _weight_files(path: str) -> list[str]:
    """Return local paths of a PLM's files of weights; a hub's are fetched if the cache lacks them."""

    def local(name: str) -> str:
        return os.path.join(path, name) if os.path.isdir(path) else hf_hub_download(path, name)

    single, index = _WEIGHTS
    if single in (os.listdir(path) if os.path.isdir(path) else _hub_names(path)):
        return [local(single)]
    with open(local(index), encoding="utf-8") as stream:
        return [local(name) for name in sorted(set(json.load(stream)["weight_map"].values()))]


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
        f"({_one_line(error)[:200]}); check the name and the network, or download the model and give its "
        "folder"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers, which warns of dropped poolers and new heads; what matters is checked here."""
    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        hf_logging.enable_progress_bar()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
