"""A pretrained language model whose layers read soft prompts (Eq. 7), and how it is loaded.

Shape legend: B rows, Z tokens, L layers, K prompts per layer, H hidden size, V vocabulary, M masked positions.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import HfApi, get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from clickprompt.config import PLMConfig
from clickprompt.errors import ConfigError, DataError
from clickprompt.models.plm_families import PLMFamily, get_family
from clickprompt.models.plm_fusion import ATTENTION, PromptFusion

__all__ = ["PromptedPLM", "check_plm", "load_plm", "plm_from_config"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_log = logging.getLogger(__name__)


class PromptedPLM(nn.Module):
    """Transformer_1 … Transformer_L of Eq. 7, and the LM head of PA-MLM (§3.5.1) unless `lm_head` is False.

    `model` is taken apart: its pooler-free backbone and LM head are kept. The head's decoder is the input embedding matrix itself,
    so it is no parameter of its own and appears once in the state dict.
    """

    def __init__(self, model: PreTrainedModel, family: PLMFamily, *, lm_head: bool = True) -> None:
        super().__init__()
        self.config: Any = model.config
        self.backbone: Any = model.get_submodule(family.backbone)
        self.lm_head: Any = model.get_submodule(family.lm_head) if lm_head else None
        if lm_head:
            self.lm_head.decoder = nn.Identity()  # `lm_logits` multiplies by the input embeddings
        self.hidden_size: int = self.config.hidden_size
        self.vocab_size: int = self.config.vocab_size
        self.max_tokens = family.max_tokens(self.config)
        self.frozen = False
        self._family = family
        self._layers: list[Any] = list(self.backbone.get_submodule(family.layers))
        self.num_layers = len(self._layers)
        self._layer_of = {layer.get_submodule(family.self_attention): (index, layer) for index, layer in enumerate(self._layers)}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, soft_prompts: Tensor | None = None) -> Tensor:
        """input_ids, attention_mask [B, Z], soft_prompts [B, L, K, H] → hidden states of the text [B, Z, H].

        Without prompts this is the plain Hugging Face model. Raises DataError for a text longer than the position table.
        """
        if input_ids.shape[1] > self.max_tokens:
            raise DataError(f"a text of {input_ids.shape[1]} tokens; this PLM reads at most {self.max_tokens}; truncate the texts to that")
        fusion = None
        if soft_prompts is not None and soft_prompts.shape[2]:
            assert soft_prompts.shape[1] == self.num_layers, f"prompts for {soft_prompts.shape[1]} layers, PLM has {self.num_layers}"
            fusion = PromptFusion(soft_prompts, self._layer_of, self._family.key_value)
        return self.backbone(input_ids=input_ids, attention_mask=attention_mask, prompt_fusion=fusion).last_hidden_state

    def lm_logits(self, hidden: Tensor) -> Tensor:
        """The LM head on chosen positions: hidden [M, H] → [M, V]."""
        assert self.lm_head is not None, "built without its LM head"
        return F.linear(self.lm_head(hidden), self.backbone.get_input_embeddings().weight, self.lm_head.bias)

    def freeze(self) -> None:
        """Learning rate 0: the backbone gets no gradients and stays in eval mode (no dropout) from now on."""
        self.frozen = True
        self.backbone.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PromptedPLM":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
            for layer in self._layers:
                # The layer's own flag only decides on gradient checkpointing, which a frozen PLM under trained prompts still needs.
                layer.training = mode
        return self

    def config_dict(self) -> dict[str, Any]:
        """The architecture as JSON values, for `plm_from_config`."""
        values = json.loads(self.config.to_json_string(use_diff=False))
        values.pop("_name_or_path", None)  # a path of this machine
        return values


def check_plm(config: PLMConfig) -> None:
    """Everything about plm.path that can be told without reading weights: config.json, family, depth, weight files.

    Raises ConfigError.
    """
    hf_config, _ = _read_config(config)
    _cut_layers(hf_config, config)
    if not config.random_init:
        _check_weights(_path(config))


def load_plm(config: PLMConfig, *, lm_head: bool = True) -> PromptedPLM:
    """Load plm.path (safetensors only, fp32), or draw its weights anew where `random_init` is set.

    An LM head that the checkpoint lacks is initialised from torch's global random state. Raises ConfigError.
    """
    hf_config, family = _read_config(config)
    _cut_layers(hf_config, config)
    if config.random_init:
        return _prompted(_from_config(hf_config, family, config), family, config, lm_head)
    path = _path(config)
    _check_weights(path)
    with _quiet():
        try:
            model, info = family.auto_class.from_pretrained(
                path,
                config=hf_config,
                attn_implementation=ATTENTION[config.attn_implementation],
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=os.path.isdir(path) or bool(_cached(path, *_WEIGHTS)),  # else offline use would fail
            )
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ConfigError(f"plm.path={config.path}: the weights can't be loaded ({_one_line(error)}); get the model again") from error
    missing = [name for name in info["missing_keys"] if not name.startswith(f"{family.lm_head}.")]
    if missing:
        raise ConfigError(
            f"plm.path={config.path}: its safetensors file lacks {len(missing)} tensors of a {hf_config.model_type} of "
            f"{hf_config.num_hidden_layers} layers, such as {min(missing)}; get the model again, or set plm.num_layers to what it holds"
        )
    if lm_head and info["missing_keys"]:
        _log.info("%s has no LM head of its own; the head's transform starts from fresh weights", config.path)
    return _prompted(model, family, config, lm_head)


def plm_from_config(hf_config: dict[str, Any], config: PLMConfig, *, lm_head: bool = True) -> PromptedPLM:
    """The architecture of `PromptedPLM.config_dict`, weights drawn anew: an export brings its own. Raises ConfigError."""
    hf_object, family = _parse_config(hf_config, config.path or "export")
    return _prompted(_from_config(hf_object, family, config), family, config, lm_head)


def _prompted(model: PreTrainedModel, family: PLMFamily, config: PLMConfig, lm_head: bool) -> PromptedPLM:
    plm = PromptedPLM(model, family, lm_head=lm_head)
    if config.gradient_checkpointing:
        # Reentrant checkpointing would walk back through the projector once per layer, whose graph is gone after the first.
        plm.backbone.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return plm.train()  # from_pretrained leaves it in eval mode


def _from_config(hf_config: PreTrainedConfig, family: PLMFamily, config: PLMConfig) -> PreTrainedModel:
    with _quiet():
        return family.auto_class.from_config(hf_config, attn_implementation=ATTENTION[config.attn_implementation], dtype=torch.float32)


def _path(config: PLMConfig) -> str:
    if config.path is None:
        raise ConfigError("plm.path is not set; give a hub name, or a local folder with config.json, tokenizer and safetensors weights")
    return os.path.expanduser(config.path)


def _read_config(config: PLMConfig) -> tuple[PreTrainedConfig, PLMFamily]:
    path = _path(config)
    if os.path.isdir(path):
        file = os.path.join(path, "config.json")
        if not os.path.isfile(file):
            raise ConfigError(f"plm.path={config.path}: the folder has no config.json; give the folder that holds the model's files")
    elif path.startswith((".", os.sep)) or path.count("/") > 1:
        raise ConfigError(f"plm.path={config.path}: no such folder; give a hub name, or a local folder with config.json and weights")
    else:
        file = _hub_config(path)
    try:
        with open(file, encoding="utf-8") as stream:
            values = json.load(stream)
    except ValueError as error:
        raise ConfigError(f"plm.path={config.path}: config.json is not valid JSON ({_one_line(error)}); get the model again") from error
    return _parse_config(values, path)


def _parse_config(values: dict[str, Any], path: str) -> tuple[PreTrainedConfig, PLMFamily]:
    family = get_family(values.get("model_type"), path)
    return CONFIG_MAPPING[values["model_type"]].from_dict(values), family


def _cut_layers(hf_config: Any, config: PLMConfig) -> None:
    if config.num_layers is None:
        return
    if config.num_layers > hf_config.num_hidden_layers:
        raise ConfigError(
            f"plm.num_layers={config.num_layers}: {config.path} has {hf_config.num_hidden_layers} layers; use at most that many"
        )
    hf_config.num_hidden_layers = config.num_layers


def _check_weights(path: str) -> None:
    names = os.listdir(path) if os.path.isdir(path) else _hub_names(path)
    if any(name in names for name in _WEIGHTS):
        return
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    found = f"its weights ({pickled[0]}) are a pickle, which is never loaded" if pickled else "the folder has no weights"
    raise ConfigError(
        f"plm.path={path}: {found}; put model.safetensors there, or set plm.random_init=true for an untrained model of this architecture"
    )


def _cached(name: str, *files: str) -> str | None:
    """Where the hub's local cache has the first of `files` that it has."""
    found = (try_to_load_from_cache(name, file) for file in files)
    return next((path for path in found if isinstance(path, str)), None)


def _hub_config(name: str) -> str:
    """The local path of the hub model's config.json, fetched if the cache lacks it."""
    try:
        if path := _cached(name, "config.json"):
            return path
        # One plain request first: the hub client itself tries an unreachable host for half a minute.
        get_session().head(hf_hub_url(name, "config.json"), timeout=10)
        return hf_hub_download(name, "config.json")
    except Exception as error:  # the client raises its own errors and those of httpx
        raise _unreachable(name, error) from error


def _hub_names(name: str) -> list[str]:
    """The file names of a hub model; where weights are in the cache, the hub is not asked."""
    if path := _cached(name, *_WEIGHTS):
        return [os.path.basename(path)]
    try:
        return HfApi().list_repo_files(name)
    except Exception as error:  # as above
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: BaseException) -> ConfigError:
    return ConfigError(
        f"plm.path={name}: no such folder, not in the local Hugging Face cache, and the hub did not give it ({_one_line(error)[:200]}); "
        "check the name and the network, or download the model and give its folder"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports dropped poolers and fresh heads as warnings; what matters of that is checked and said here."""
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
