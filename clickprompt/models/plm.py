"""A pretrained language model whose layers read soft prompts (Eq. 7), and how it is loaded.

Shape legend: B rows, Z tokens, L layers, K prompts per layer, H hidden size, V vocabulary, M masked
positions.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import HfApi, get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging
from transformers.utils.import_utils import is_flash_attn_2_available

from clickprompt.config import LMKind, PLMConfig, PromptConfig
from clickprompt.errors import ConfigError, DataError
from clickprompt.models.plm_dropout import use_cpu_dropout
from clickprompt.models.plm_families import PLMFamily, get_family
from clickprompt.models.plm_fusion import ATTENTION, PLAIN_ATTENTION, PromptFusion

__all__ = ["PLMFacts", "PromptedPLM", "check_plm", "load_plm", "plm_facts", "plm_from_config"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_log = logging.getLogger(__name__)


class PromptedPLM(nn.Module):
    """Transformer_1 … Transformer_L of Eq. 7, and the LM head of pretraining (§3.5.1) unless `lm_head` is
    False.

    `model` is taken apart: its backbone and LM head are kept. L counts the layers of all stacks (BART:
    encoder, then decoder). `prompt_shape` says what `forward` reads as soft prompts, (layers, width): (L, H)
    for hidden states, (L, 2C) for keys and values, (1, size of the input embeddings) for prompts before the
    first layer only.
    """

    def __init__(
        self, model: PreTrainedModel, family: PLMFamily, prompt: PromptConfig, *, lm_head: bool = True
    ) -> None:
        super().__init__()
        self.config: Any = model.config
        self.backbone: Any = model.get_submodule(family.backbone)
        self.lm_head = LMHead(model, family) if lm_head else None
        self.hidden_size: int = self.config.hidden_size
        self.vocab_size: int = self.config.vocab_size
        self.lm_kind = family.lm_kind
        self.input_only = prompt.prompt_depth == "input"
        self.max_tokens = _max_tokens(self.config, family, prompt)
        self.frozen = False
        use_cpu_dropout(self.backbone)
        self.family = family
        self._raw_prompts = prompt.prompt_injection == "key_value"
        self.layers: list[Any] = [
            layer for path in family.layers for layer in self.backbone.get_submodule(path)
        ]
        self.num_layers = len(self.layers)
        self._layer_of = {
            layer.get_submodule(family.self_attention): (index, layer)
            for index, layer in enumerate(self.layers)
        }

    @property
    def prompt_shape(self) -> tuple[int, int]:
        if self.input_only:
            return 1, self.backbone.get_input_embeddings().weight.shape[1]
        if not self._raw_prompts:
            return self.num_layers, self.hidden_size
        heads = getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads
        head_dim = (
            getattr(self.config, "head_dim", None) or self.hidden_size // self.config.num_attention_heads
        )
        return self.num_layers, 2 * heads * head_dim

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        soft_prompts: Tensor | None = None,
        decoder_text: Tensor | None = None,
    ) -> Tensor:
        """input_ids, attention_mask [B, Z], soft_prompts [B, *prompt_shape with K between] → hidden states of
        the text [B, Z, H].

        An encoder-decoder gives its decoder's hidden states; that reads `decoder_text` [B, Z] (default:
        input_ids) shifted right by one. Without prompts this is the plain Hugging Face model. Raises
        DataError for a text longer than the position table.
        """
        if input_ids.shape[1] > self.max_tokens:
            raise DataError(
                f"a text of {input_ids.shape[1]} tokens; this PLM reads at most {self.max_tokens}; set "
                f"plm.max_length={self.max_tokens}"
            )
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.lm_kind == "denoising":
            text = input_ids if decoder_text is None else decoder_text
            start = text.new_full((len(text), 1), self.config.decoder_start_token_id)
            inputs["decoder_input_ids"] = torch.cat([start, text[:, :-1]], dim=1)
        if soft_prompts is None or not soft_prompts.shape[2]:
            return self.backbone(**inputs).last_hidden_state
        soft_prompts = soft_prompts.to(self.backbone.dtype)
        if self.input_only:
            return self._after_prompts(inputs, soft_prompts[:, 0])
        return self._fused(inputs, self._fusion(soft_prompts))

    def prompt_attention(self, input_ids: Tensor, attention_mask: Tensor, soft_prompts: Tensor) -> Tensor:
        """What each position of the text attends to: the weights of the K prompts, mean over the heads (with
        those of the text, they sum to 1), [L, B, Z, K]. Of an encoder or decoder whose attention is eager,
        with layer-wise prompts; arguments as of `forward`.
        """
        assert self.config._attn_implementation == ATTENTION["eager"], (
            "other attention functions keep no weights"
        )
        assert self.lm_kind != "denoising"
        assert not self.input_only
        fusion = self._fusion(soft_prompts.to(self.backbone.dtype), weights={})
        self._fused({"input_ids": input_ids, "attention_mask": attention_mask}, fusion)
        assert fusion.weights is not None
        return torch.stack([fusion.weights[layer].mean(1) for layer in range(self.num_layers)])

    def _fusion(self, soft_prompts: Tensor, weights: dict[int, Tensor] | None = None) -> PromptFusion:
        assert soft_prompts.shape[1] == self.num_layers, (
            f"prompts for {soft_prompts.shape[1]} layers, PLM has {self.num_layers}"
        )
        return PromptFusion(
            soft_prompts, self._layer_of, self.family, self.backbone, self._raw_prompts, weights=weights
        )

    def _fused(self, inputs: dict[str, Any], fusion: PromptFusion) -> Tensor:
        hidden = self.backbone(**inputs, prompt_fusion=fusion).last_hidden_state
        # Prompts arrive as a keyword that every module must hand on; one that stops doing so must not go
        # unnoticed
        assert len(fusion.reached) == self.num_layers, (
            f"{self.config.model_type}: prompts reached layers {sorted(fusion.reached)} only"
        )
        return hidden

    def _after_prompts(self, inputs: dict[str, Any], prompts: Tensor) -> Tensor:
        """`prompt_depth: input`: prompts [B, K, E] before the text's embeddings, ordinary positions from
        there on.
        """
        num_prompts = prompts.shape[1]
        embeddings = self.backbone.get_input_embeddings()(inputs.pop("input_ids"))
        attention_mask = F.pad(inputs.pop("attention_mask"), (num_prompts, 0), value=1)
        hidden = self.backbone(
            inputs_embeds=torch.cat([prompts, embeddings], dim=1), attention_mask=attention_mask, **inputs
        )
        hidden = hidden.last_hidden_state
        return (
            hidden if self.lm_kind == "denoising" else hidden[:, num_prompts:]
        )  # a decoder of its own has no prompts in its text

    def lm_logits(self, hidden: Tensor) -> Tensor:
        """The LM head on chosen positions: hidden [M, H] → [M, V]."""
        assert self.lm_head is not None, "built without its LM head"
        return self.lm_head(hidden, self.backbone.get_input_embeddings().weight)

    def freeze(self) -> None:
        """Learning rate 0: the backbone gets no gradients and stays in eval mode (no dropout) from now on."""
        self.frozen = True
        self.backbone.requires_grad_(False)
        for layer in self.layers:
            for name in ("dropout", "activation_dropout"):
                if isinstance(
                    getattr(layer, name, None), float
                ):  # BART's layers drop out by their own flag, which `train` sets
                    setattr(layer, name, 0.0)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PromptedPLM":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
            for layer in self.layers:
                # The layer's own flag now only decides on gradient checkpointing, which a frozen PLM under
                # trained prompts still needs.
                layer.training = mode
        return self

    def config_dict(self) -> dict[str, Any]:
        """The architecture as JSON values, for `plm_from_config`."""
        values = json.loads(self.config.to_json_string(use_diff=False))
        values.pop("_name_or_path", None)  # a path of this machine
        return values


class LMHead(nn.Module):
    """The LM's own classical decoder: its transform, the vocabulary matrix, its bias.

    The matrix is the input embeddings' where the checkpoint ties the two (then it is no parameter of the
    head, and once in the state dict), else the checkpoint's own.
    """

    bias: Tensor | None

    def __init__(self, model: Any, family: PLMFamily) -> None:
        super().__init__()
        output = model.get_output_embeddings()
        self.transform = family.lm_transform(model)
        self.weight = None if model.config.tie_word_embeddings else output.weight
        bias = output.bias if family.lm_bias is None else getattr(model, family.lm_bias)
        if bias is None or isinstance(bias, nn.Parameter):
            self.register_parameter("bias", bias)
        else:
            self.register_buffer("bias", bias)

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """hidden [M, H], input embeddings [V, E] → logits [M, V]."""
        bias = None if self.bias is None else self.bias.flatten()
        return F.linear(self.transform(hidden), embeddings if self.weight is None else self.weight, bias)


@dataclass(frozen=True)
class PLMFacts:
    """What is known of a PLM before its weights are read."""

    model_type: str
    lm_kind: LMKind
    num_layers: int
    hidden_size: int
    max_tokens: int


def check_plm(config: PLMConfig, prompt: PromptConfig | None = None) -> PLMFacts:
    """Everything about plm.path that can be told without reading weights: config.json, family, depth, weight
    files.

    Raises ConfigError.
    """
    prompt = prompt or PromptConfig()
    hf_config, family = _read_config(config, prompt)
    if not config.random_init:
        _check_weights(_path(config))
    return _facts(hf_config, family, prompt)


def plm_facts(hf_config: dict[str, Any]) -> PLMFacts:
    """The same of an export's PLM (`PromptedPLM.config_dict`)."""
    return _facts(*_parse_config(hf_config, "export"), PromptConfig())


def _facts(hf_config: Any, family: PLMFamily, prompt: PromptConfig) -> PLMFacts:
    return PLMFacts(
        model_type=hf_config.model_type,
        lm_kind=family.lm_kind,
        num_layers=sum(getattr(hf_config, key) for key in family.depth),
        hidden_size=hf_config.hidden_size,
        max_tokens=_max_tokens(hf_config, family, prompt),
    )


def load_plm(config: PLMConfig, prompt: PromptConfig | None = None, *, lm_head: bool = True) -> PromptedPLM:
    """Load plm.path (safetensors only, in plm.dtype), or draw its weights anew where `random_init` is set.

    An LM head that the checkpoint lacks is initialised from torch's global random state. Raises ConfigError.
    """
    prompt = prompt or PromptConfig()
    hf_config, family = _read_config(config, prompt)
    if config.random_init:
        return _prompted(_from_config(hf_config, family, config, prompt), family, config, prompt, lm_head)
    path = _path(config)
    _check_weights(path)
    with _quiet():
        try:
            model, info = family.auto_class.from_pretrained(
                path,
                config=hf_config,
                attn_implementation=_attention(config, prompt),
                dtype=getattr(torch, config.dtype),
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=os.path.isdir(path)
                or bool(_cached(path, *_WEIGHTS)),  # else offline use would fail
            )
        except (OSError, RuntimeError, ValueError, ImportError, SafetensorError) as error:
            raise ConfigError(
                f"plm.path={config.path}: the weights can't be loaded ({_one_line(error)}); get the model "
                "again"
            ) from error
    missing = [name for name in info["missing_keys"] if name.startswith(f"{family.backbone}.")]
    if missing:
        layers = sum(getattr(hf_config, key) for key in family.depth)
        raise ConfigError(
            f"plm.path={config.path}: its safetensors file lacks {len(missing)} tensors of a "
            f"{hf_config.model_type} of {layers} layers, "
            f"such as {min(missing)}; get the model again, or set plm.num_layers to what it holds"
        )
    if lm_head and info["missing_keys"]:
        _log.info("%s has no LM head of its own; the head's transform starts from fresh weights", config.path)
    return _prompted(model, family, config, prompt, lm_head)


def plm_from_config(
    hf_config: dict[str, Any], config: PLMConfig, prompt: PromptConfig, *, lm_head: bool = True
) -> PromptedPLM:
    """The architecture of `PromptedPLM.config_dict`, weights drawn anew: an export brings its own. Raises
    ConfigError.
    """
    hf_object, family = _parse_config(hf_config, config.path or "export")
    return _prompted(_from_config(hf_object, family, config, prompt), family, config, prompt, lm_head)


def _prompted(
    model: PreTrainedModel, family: PLMFamily, config: PLMConfig, prompt: PromptConfig, lm_head: bool
) -> PromptedPLM:
    plm = PromptedPLM(model, family, prompt, lm_head=lm_head)
    if config.gradient_checkpointing:
        # Reentrant checkpointing would walk back through the projector once per layer, whose graph is gone
        # after the first.
        plm.backbone.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return plm.train()  # from_pretrained leaves it in eval mode


def _from_config(
    hf_config: PreTrainedConfig, family: PLMFamily, config: PLMConfig, prompt: PromptConfig
) -> PreTrainedModel:
    with _quiet():
        return family.auto_class.from_config(
            hf_config, attn_implementation=_attention(config, prompt), dtype=getattr(torch, config.dtype)
        )


def _attention(config: PLMConfig, prompt: PromptConfig) -> str:
    """What `attn_implementation` is called in transformers."""
    names = ATTENTION if _is_layerwise(prompt) else PLAIN_ATTENTION
    return names[config.attn_implementation]


def _is_layerwise(prompt: PromptConfig) -> bool:
    return prompt.num_prompts > 0 and prompt.prompt_depth == "layerwise"


def _max_tokens(hf_config: Any, family: PLMFamily, prompt: PromptConfig) -> int:
    """Layer-wise prompts take no position; those before the first layer do."""
    return family.max_tokens(hf_config) - (prompt.num_prompts if prompt.prompt_depth == "input" else 0)


def _path(config: PLMConfig) -> str:
    if config.path is None:
        raise ConfigError(
            "plm.path is not set; give a hub name, or a local folder with config.json, tokenizer and "
            "safetensors weights"
        )
    return os.path.expanduser(config.path)


def _read_config(config: PLMConfig, prompt: PromptConfig) -> tuple[PreTrainedConfig, PLMFamily]:
    """The configuration as it will be built, and its family. Raises ConfigError for what can't be built."""
    hf_config, family = _parse_config(_config_values(config), _path(config))
    _cut_layers(hf_config, family, config)
    _check_flash(hf_config, config, prompt)
    if config.pooling == "cls" and family.lm_kind != "masked":
        raise ConfigError(
            f"plm.pooling=cls: the first token of a {hf_config.model_type} sees no other; use last or mean, "
            "or leave it out"
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
    hf_config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
    for key, value in family.config_changes.items():
        setattr(hf_config, key, value)
    return hf_config, family


def _cut_layers(hf_config: Any, family: PLMFamily, config: PLMConfig) -> None:
    """`plm.num_layers` of each stack."""
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
        f"plm.path={name}: no such folder, not in the local Hugging Face cache, and the hub did not give it "
        f"({_one_line(error)[:200]}); "
        "check the name and the network, or download the model and give its folder"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports dropped poolers and fresh heads as warnings; what matters of that is checked and
    said here.
    """
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
