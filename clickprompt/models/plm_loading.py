"""Check and load a PromptedPLM: its config.json and weights (plm_files.py) may be a stranger's."""

import copy
import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging
from transformers.utils.import_utils import is_flash_attn_2_available

from clickprompt.config import LMKind, PLMConfig, PromptConfig
from clickprompt.errors import ClickPromptError, ConfigError
from clickprompt.io import storage
from clickprompt.models.claims import at_most, number_of_weights, stored_shapes
from clickprompt.models.divided import Division
from clickprompt.models.plm import PromptedPLM, longest_text
from clickprompt.models.plm_divided import drawn, read, stored_dtypes, tensors_of
from clickprompt.models.plm_families import PLMFamily, get_family
from clickprompt.models.plm_files import (
    check_weights,
    config_values,
    one_line,
    path_of,
    weight_files,
)
from clickprompt.models.plm_fusion import ATTENTION
from clickprompt.models.plm_lora import add_adapters, check_adapters

__all__ = ["PLMFacts", "check_plm", "load_plm", "plm_facts", "plm_fingerprint", "plm_from_config"]

# Of a model's config.json: what isn't larger can't take much memory before its weights are looked at
_LARGEST, _LARGEST_OF = 2**24, {"num_labels": 2**16}
_MORE = 4  # parameters of a model for each number in its files: tied tables, heads that its files lack
_SMALL = 2**20
_AGAIN, _ANOTHER = "get the model again", "give another model, or mend its config.json"

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
        check_weights(path_of(config))
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
    weights = seed if config.random_init else [storage.sha256(file) for file in weight_files(path_of(config))]
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
    path = path_of(config)
    if config.random_init:
        with _refused(path, "can't be built", _ANOTHER), drawn(division) if division else nullcontext():
            model = _from_config(hf_config, family, config)
        return _prompted(model, family, config, prompt, lm_head)
    check_weights(path)
    with _refused(path, "the weights can't be loaded", _AGAIN):
        files = weight_files(path)
        own_class = _checked_class(hf_config, family, path, files)
        if division and stored_dtypes(files) == {getattr(torch, config.dtype)}:
            division = None
        with _quiet(), read(division) if division else nullcontext():
            model, info = (own_class if division else family.auto_class).from_pretrained(
                None if division else path,
                state_dict=tensors_of(files) if division else None,
                config=hf_config,
                attn_implementation=ATTENTION[config.attn_implementation],
                dtype=getattr(torch, config.dtype),
                use_safetensors=True,
                output_loading_info=True,
                # They are here by now; otherwise transformers would ask the hub, and offline use would fail
                local_files_only=True,
            )
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


def _checked_class(hf_config: PreTrainedConfig, family: PLMFamily, path: str, files: Sequence[str]) -> Any:
    """Return the class of a model, which takes tensors in place of a path, as an auto class doesn't.

    Raises ConfigError if the files are too small for the model; so no memory is taken for what a config.json
    claims.
    """
    shapes = stored_shapes(files)
    refusal = ConfigError(
        f"plm.path={path}: by its config.json the model is larger than its weights; get the model again"
    )
    with at_most(len(shapes), refusal), torch.device("meta"), _quiet():
        model = family.auto_class.from_config(copy.deepcopy(hf_config))
    built = number_of_weights({name: tensor.shape for name, tensor in model.named_parameters()})
    if built > _MORE * number_of_weights(shapes) + _SMALL:
        raise refusal
    return type(model)


@contextmanager
def _refused(path: str, what: str, remedy: str) -> Iterator[None]:
    """Whatever transformers says of a stranger's files, in one line: it raises any kind of exception."""
    try:
        yield
    except (ClickPromptError, torch.OutOfMemoryError):  # the latter is no fault of the files
        raise
    except Exception as error:
        raise ConfigError(f"plm.path={path}: {what} ({one_line(error)[:300]}); {remedy}") from error


def _is_layerwise(prompt: PromptConfig) -> bool:
    return prompt.num_prompts > 0 and prompt.prompt_depth == "layerwise"


def _read_config(config: PLMConfig, prompt: PromptConfig) -> tuple[PreTrainedConfig, PLMFamily]:
    """Read the configuration as it will be built, and its family. Raises ConfigError if it can't be built."""
    values = config_values(config)
    if not config.random_init and values.get("quantization_config"):
        raise ConfigError(
            f"plm.path={config.path}: its weights are quantised, which isn't supported; give the model in "
            "bfloat16, float16 or float32"
        )
    hf_config, family = _parse_config(values, path_of(config))
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
    config_class = CONFIG_MAPPING[values["model_type"]]
    fields = (field.name for field in dataclasses.fields(config_class))
    for key in {"num_labels", *config_class.attribute_map, *fields} & values.keys():
        number = values[key]
        if isinstance(number, int) and number > _LARGEST_OF.get(key, _LARGEST):
            raise ConfigError(f"plm.path={path}: {key}={number} in its config.json is no model's; {_ANOTHER}")
    with _refused(path, f"its config.json isn't that of a {values['model_type']}", _ANOTHER):
        hf_config = config_class.from_dict(values)
        _facts(hf_config, family, PromptConfig())
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
