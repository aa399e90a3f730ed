"""A pretrained language model whose layers read soft prompts (Eq. 7).

Shape legend: B rows, Z tokens, L layers, K prompts per layer, H hidden size, V vocabulary, M masked
positions, R positions read, T the most of them in a row.
"""

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from clickprompt.config import PromptConfig
from clickprompt.errors import DataError
from clickprompt.models.divided import shape_of
from clickprompt.models.plm_dropout import use_cpu_dropout
from clickprompt.models.plm_families import PLMFamily
from clickprompt.models.plm_fusion import ATTENTION, PromptFusion, at_positions, put_back, take_positions

__all__ = ["PromptedPLM", "longest_text"]


class PromptedPLM(nn.Module):
    """Transformer_1 … Transformer_L of Eq. 7, with the LM head of pretraining (§3.5.1) unless `lm_head` is
    False.

    Only the backbone and the LM head of `model` are kept. L counts the layers of all stacks (BART: encoder,
    then decoder). `prompt_shape` is the shape of the soft prompts that `forward` reads, (layers, width):
    (L, H) for hidden states, (L, 2C) for keys and values, (1, size of the input embeddings) for prompts
    before the first layer only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        family: PLMFamily,
        prompt: PromptConfig,
        *,
        lm_head: bool = True,
        chooses_positions: bool = False,
    ) -> None:
        """chooses_positions: whether the last layer is computed only where its states are used; the model's
        attention is then one of ATTENTION.
        """
        super().__init__()
        self.config: Any = model.config
        self.backbone: Any = model.get_submodule(family.backbone)
        self.lm_head = LMHead(model, family) if lm_head else None
        self.hidden_size: int = self.config.hidden_size
        self.vocab_size: int = self.config.vocab_size
        self.lm_kind = family.lm_kind
        self.input_only = prompt.prompt_depth == "input"
        self.max_tokens = longest_text(self.config, family, prompt)
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
        self.chooses_positions = chooses_positions
        if chooses_positions:
            self.layers[-1].register_forward_pre_hook(take_positions, with_kwargs=True)
            if family.keeps_width:
                self.layers[-1].register_forward_hook(put_back, with_kwargs=True)

    @property
    def prompt_shape(self) -> tuple[int, int]:
        if self.input_only:
            return 1, shape_of(self.backbone.get_input_embeddings().weight)[1]
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
        positions: Tensor | None = None,
    ) -> Tensor:
        """input_ids, attention_mask [B, Z], soft_prompts [B, layers, K, width] → hidden states of the text
        [B, Z, H], with (layers, width) = prompt_shape.

        An encoder-decoder gives its decoder's hidden states; the decoder reads `decoder_text` [B, Z]
        (default: input_ids) shifted right by one. Without prompts this is the plain Hugging Face model.
        With `positions` [B, T] (needs `chooses_positions`) → their hidden states only, [B, T, H].
        Raises DataError for a text longer than the position table.
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
            return self._plain(inputs, positions)
        soft_prompts = soft_prompts.to(self.backbone.dtype)
        if self.input_only:
            return self._after_prompts(inputs, soft_prompts[:, 0], positions)
        return self._fused(inputs, self._fusion(soft_prompts, positions=positions))

    def states_at(
        self,
        places: tuple[Tensor, Tensor],
        input_ids: Tensor,
        attention_mask: Tensor,
        soft_prompts: Tensor | None = None,
        decoder_text: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states at some places of each row, [R, H] in row-major order.

        places: `positions` [B, T] and `numbers` [R] of `Reading` (data/places.py); the others as for
        `forward`.
        """
        positions, numbers = places
        if self.chooses_positions:
            hidden = self(input_ids, attention_mask, soft_prompts, decoder_text, positions)
        else:
            hidden = self(input_ids, attention_mask, soft_prompts, decoder_text)
            rows = torch.arange(len(positions), device=positions.device)
            in_text = positions + rows.unsqueeze(1) * input_ids.shape[1]
            numbers = in_text.flatten().index_select(0, numbers)
        return hidden.flatten(0, 1).index_select(0, numbers)

    def state_of_each(
        self,
        positions: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        soft_prompts: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden state at one position [B] of each row, [B, H]; the others as for `forward`."""
        if self.chooses_positions:
            return self(input_ids, attention_mask, soft_prompts, positions=positions.unsqueeze(1))[:, 0]
        hidden = self(input_ids, attention_mask, soft_prompts)
        return hidden[torch.arange(len(hidden), device=hidden.device), positions]

    def prompt_attention(self, input_ids: Tensor, attention_mask: Tensor, soft_prompts: Tensor) -> Tensor:
        """Return each text position's attention weights on the K prompts, averaged over the heads:
        [L, B, Z, K].

        Together with the weights on the text they sum to 1. This needs an encoder or a decoder with eager
        attention and layer-wise prompts. The arguments are those of `forward`.
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

    def _fusion(
        self,
        soft_prompts: Tensor | None,
        weights: dict[int, Tensor] | None = None,
        positions: Tensor | None = None,
    ) -> PromptFusion:
        assert soft_prompts is None or soft_prompts.shape[1] == self.num_layers, (
            f"prompts for {soft_prompts.shape[1]} layers, PLM has {self.num_layers}"
        )
        return PromptFusion(
            # A slice in each layer would zero the whole tensor's gradient there in the backward pass
            None if soft_prompts is None else soft_prompts.unbind(1),
            self._layer_of,
            self.family,
            self.backbone,
            self._raw_prompts,
            weights=weights,
            positions=positions,
        )

    def _plain(self, inputs: dict[str, Any], positions: Tensor | None) -> Tensor:
        """Run the backbone without prompts beside its layers; without positions it is Hugging Face's own."""
        if positions is None:
            return self.backbone(**inputs).last_hidden_state
        return self._fused(inputs, self._fusion(None, positions=positions))

    def _fused(self, inputs: dict[str, Any], fusion: PromptFusion) -> Tensor:
        hidden = self.backbone(**inputs, prompt_fusion=fusion).last_hidden_state
        # Prompts travel as a keyword argument that every module must pass on. If one stops doing so, it must
        # not go unnoticed
        assert fusion.prompts is None or len(fusion.reached) == self.num_layers, (
            f"{self.config.model_type}: prompts reached layers {sorted(fusion.reached)} only"
        )
        if fusion.positions is not None and self.family.keeps_width:
            return at_positions(hidden, fusion.positions)
        assert fusion.positions is None or hidden.shape[:2] == fusion.positions.shape, (
            f"{self.config.model_type}: the last layer was computed at {hidden.shape[1]} positions"
        )
        return hidden

    def _after_prompts(
        self, inputs: dict[str, Any], prompts: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Run the backbone with prompts [B, K, E] before the text's embeddings (`prompt_depth: input`).

        From there on the prompts are ordinary positions.
        """
        num_prompts = prompts.shape[1]
        embeddings = self.backbone.get_input_embeddings()(inputs.pop("input_ids"))
        attention_mask = F.pad(inputs.pop("attention_mask"), (num_prompts, 0), value=1)
        inputs |= {"inputs_embeds": torch.cat([prompts, embeddings], dim=1), "attention_mask": attention_mask}
        if self.lm_kind == "denoising":
            # It returns its decoder's states, and there are no prompts in the decoder's text
            return self._plain(inputs, positions)
        hidden = self._plain(inputs, None if positions is None else positions + num_prompts)
        return hidden if positions is not None else hidden[:, num_prompts:]

    def lm_logits(self, hidden: Tensor, vocabulary: Tensor | None = None) -> Tensor:
        """Apply the LM head to chosen positions: hidden [M, H] → [M, V]; V is the whole vocabulary, or the
        tokens `vocabulary` [V].
        """
        assert self.lm_head is not None, "built without its LM head"
        return self.lm_head(hidden, self.backbone.get_input_embeddings().weight, vocabulary)

    def answer_logits(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """Return the LM head's logit of the second of the tokens `answers` [2] less that of the first: hidden
        [M, H] → [M].
        """
        assert self.lm_head is not None, "built without its LM head"
        embeddings = self.backbone.get_input_embeddings().weight
        return self.lm_head(hidden, embeddings, answers, contrast=True).squeeze(-1)

    def freeze(self) -> None:
        """Stop training the backbone: no gradients, and eval mode (no dropout) from now on."""
        self.frozen = True
        self.backbone.requires_grad_(False)
        for layer in self.layers:
            for name in ("dropout", "activation_dropout"):
                # BART's layers drop out by their own training flag, which `train` sets
                if isinstance(getattr(layer, name, None), float):
                    setattr(layer, name, 0.0)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PromptedPLM":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
            for layer in self.layers:
                # The layer's own flag now only switches gradient checkpointing, which a frozen PLM with
                # trained prompts still needs
                layer.training = mode
        return self

    def layers_above(self) -> dict[nn.Parameter, int]:
        """Count, for each parameter of the backbone, the layers between it and the output.

        L − 1 − l in layer l, as in the norm behind it, L in what is outside of the layers: the embeddings
        and their norm.
        """
        above = dict.fromkeys(self.backbone.parameters(), self.num_layers)
        for layer, module in enumerate(self.layers):
            above |= dict.fromkeys(module.parameters(), self.num_layers - 1 - layer)
        last = -1
        # BART and post-LN encoders have no such norms
        for path, norm in zip(self.family.layers, self.family.final_norms, strict=False):
            last += len(self.backbone.get_submodule(path))
            above |= dict.fromkeys(self.backbone.get_submodule(norm).parameters(), self.num_layers - 1 - last)
        return above

    def config_dict(self) -> dict[str, Any]:
        """Return the architecture as JSON values, for `plm_from_config`."""
        values = json.loads(self.config.to_json_string(use_diff=False))
        values.pop("_name_or_path", None)  # a path of this machine
        return values


class LMHead(nn.Module):
    """The language model's own head: its transform, the vocabulary matrix and its bias.

    If the checkpoint ties the matrix to the input embeddings, it is no parameter of the head and occurs once
    in the state dict. Otherwise it is the checkpoint's own.
    """

    bias: Tensor | None

    def __init__(self, model: Any, family: PLMFamily) -> None:
        super().__init__()
        output = model.get_output_embeddings()  # None if the model was loaded without a head
        self.transform = family.lm_transform(model)
        self.weight = None if model.config.tie_word_embeddings else output.weight
        bias = getattr(output, "bias", None) if family.lm_bias is None else getattr(model, family.lm_bias)
        if bias is None or isinstance(bias, nn.Parameter):
            self.register_parameter("bias", bias)
        else:
            self.register_buffer("bias", bias)

    def forward(
        self, hidden: Tensor, embeddings: Tensor, vocabulary: Tensor | None = None, *, contrast: bool = False
    ) -> Tensor:
        """hidden [M, H], input embeddings [V, E] → logits [M, V], or of the tokens `vocabulary` only.

        contrast: the logits of all but the first of `vocabulary`, each less the first's. The difference is
        taken of the weights: that of two products would lose digits in lower precision.
        """
        bias = None if self.bias is None else self.bias.flatten()
        matrix = embeddings if self.weight is None else self.weight
        if vocabulary is not None:
            matrix = F.embedding(vocabulary, matrix)
            bias = None if bias is None else bias[vocabulary]
        if contrast:
            matrix = matrix[1:] - matrix[:1]
            bias = None if bias is None else bias[1:] - bias[:1]
        return F.linear(self.transform(hidden), matrix, bias)


def longest_text(hf_config: Any, family: PLMFamily, prompt: PromptConfig) -> int:
    """Return the longest text that fits; prompts before the first layer take positions, others don't."""
    return family.max_tokens(hf_config) - (prompt.num_prompts if prompt.prompt_depth == "input" else 0)
