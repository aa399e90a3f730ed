"""Eq. 7 by hand: each layer runs over [prompts ⊕ hidden states], all K + Z positions; its first K outputs are
dropped.

Linear layers, norms and embeddings are the PLM's own modules. Order of the residuals, masks, windows, rotary
positions and softmax are written out here, from the papers of the families and transformers' modeling files,
and know nothing of clickprompt.

A prompt is one more input position of every layer: the layer's input norm (pre-LN), projections, biases and
key norm apply to it. It has rotary position 0, and every text position sees it, whatever the causal mask or
the window says.

Where transformers computes in float32 even in a float64 model, so does this: rotary angles, RMSNorm (its
module), ModernBERT's rotation, and eager attention's softmax of ModernBERT, Llama and Qwen. Otherwise the two
would agree to about 1e-6 only.

Shape legend: B rows, Z tokens, K prompts, N = K + Z or Z positions that a layer runs over, A heads, D head
size, H hidden size.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["naive_plm"]


def naive_plm(
    backbone: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    soft_prompts: Tensor | None = None,
    *,
    injection: str = "hidden",
    decoder_text: Tensor | None = None,
) -> Tensor:
    """Hidden states [B, Z, H] of the text; soft_prompts [B, L, K, H], or with injection="key_value" [B, L, K,
    2 · key heads · D].
    """
    if soft_prompts is None:
        config = backbone.config
        decoders = ("decoder_layers", "num_decoder_layers")
        layers = config.num_hidden_layers + sum(getattr(config, key, None) or 0 for key in decoders)
        soft_prompts = torch.zeros(
            len(input_ids), layers, 0, backbone.config.hidden_size, dtype=backbone.dtype
        )
    kind = backbone.config.model_type
    softmax_float32 = (
        kind in ("modernbert", "llama", "qwen2", "qwen3") and "eager" in backbone.config._attn_implementation
    )
    stack = Stack(soft_prompts, injection, softmax_float32, rotate_float32=kind == "modernbert")
    if kind in ("bart", "t5"):
        text = input_ids if decoder_text is None else decoder_text
        return (_bart if kind == "bart" else _t5)(backbone, input_ids, attention_mask, text, stack)
    return _KINDS[kind](backbone, input_ids, attention_mask.bool(), stack)


# Attention


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, N, A·D] → [B, A, N, D]"""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor,
    *,
    softmax_float32: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """query [B, A, N, D], key and value [B, A or fewer, M, D], visible [B, N, M] → [B, N, A·D]

    bias [A, N, M]: T5's, which doesn't divide by √D.
    """
    group = query.shape[1] // key.shape[1]  # so many query heads share one key head
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = torch.einsum("band,bamd->banm", query, key)
    scores = scores / query.shape[-1] ** 0.5 if bias is None else scores + bias
    scores = scores.masked_fill(~visible[:, None], -torch.inf)
    weights = scores.float().softmax(-1).to(scores.dtype) if softmax_float32 else scores.softmax(-1)
    return torch.einsum("banm,bamd->bnad", weights, value).flatten(2)


def _rotate(x: Tensor, theta: float, *, float32: bool = False) -> Tensor:
    """Rotary positions 0, 1, …: the pair (x_i, x_{i + D/2}) turned by position · theta^(−2i/D). x [B, A, Z,
    D]
    """
    length, size = x.shape[2:]
    frequency = 1 / theta ** (torch.arange(0, size, 2).float() / size)
    angle = torch.outer(torch.arange(length).float(), frequency).repeat(1, 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)

    def rounded() -> Tensor:
        return x.float() if float32 else x  # once for each use, since its gradient is rounded too

    first, second = rounded().chunk(2, dim=-1)
    return (rounded() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


@dataclass(frozen=True)
class SelfAttention:
    """One layer's: its prompts, what its text positions see of each other, and its rotary base."""

    visible: Tensor  # [B, Z, Z]
    num_prompts: int  # how many of the N input positions are prompts
    raw: Tensor | None  # [B, K, 2 · key heads · D]: keys and values that are prepended as they are
    theta: float | None
    softmax_float32: bool
    rotate_float32: bool

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """[B, A, N, D], of all N input positions → [B, N, A·D]; bias [A, Z, Z]: of the text positions"""
        rows, text = self.visible.shape[:2]
        if self.theta is not None:
            query, key = self._turned(query, self.theta), self._turned(key, self.theta)
        if self.raw is not None:
            raw_key, raw_value = (_split(half, key.shape[1]) for half in self.raw.chunk(2, dim=-1))
            key, value = torch.cat([raw_key, key], dim=2), torch.cat([raw_value, value], dim=2)
        visible = torch.ones(rows, query.shape[2], key.shape[2], dtype=torch.bool)
        visible[:, -text:, -text:] = self.visible
        if bias is not None:
            whole = torch.zeros(len(bias), query.shape[2], key.shape[2], dtype=bias.dtype)
            whole[:, -text:, -text:] = bias
            bias = whole
        return _attend(query, key, value, visible, softmax_float32=self.softmax_float32, bias=bias)

    def _turned(self, x: Tensor, theta: float) -> Tensor:
        """Text position i by i; prompts are at position 0, so they stay as they are."""
        prompts, text = x[:, :, : self.num_prompts], x[:, :, self.num_prompts :]
        return torch.cat([prompts, _rotate(text, theta, float32=self.rotate_float32)], dim=2)


@dataclass(frozen=True)
class Stack:
    """The loop of Eq. 7 over the layers of one stack."""

    soft_prompts: Tensor
    injection: str
    softmax_float32: bool
    rotate_float32: bool

    def run(
        self,
        layers: Iterable[Any],
        block: Callable[[Any, Tensor, SelfAttention], Tensor],
        hidden: Tensor,
        visible: Callable[[int], Tensor],
        theta: Callable[[int], float | None] = lambda index: None,
    ) -> Tensor:
        for index, layer in enumerate(layers):
            prompts = self.soft_prompts[:, index]
            joined = prompts.shape[1] if self.injection == "hidden" else 0
            raw = prompts if self.injection == "key_value" else None
            attention = SelfAttention(
                visible(index), joined, raw, theta(index), self.softmax_float32, self.rotate_float32
            )
            if joined:
                hidden = torch.cat([prompts, hidden], dim=1)
            hidden = block(layer, hidden, attention)[:, joined:]
        return hidden


# Masks: [B, Z, Z], row = the position that looks, column = the position looked at


def _bidirectional(mask: Tensor) -> Tensor:
    return mask[:, None, :] | torch.eye(
        mask.shape[1], dtype=torch.bool
    )  # a padding position sees itself, so that no row is empty


def _distance(mask: Tensor) -> Tensor:
    """How far back the column lies, seen from the row."""
    positions = torch.arange(mask.shape[1])
    return positions[:, None] - positions[None, :]


def _causal(mask: Tensor, window: int | None = None) -> Tensor:
    """Itself and the past, of that at most `window` positions with itself."""
    back = _distance(mask)
    return _bidirectional(mask) & (back >= 0) & (back < (window or len(back)))


# Encoders, post-LN


def _bert(backbone: Any, input_ids: Tensor, mask: Tensor, stack: Stack) -> Tensor:
    """BERT, RoBERTa, ELECTRA"""
    hidden = backbone.embeddings(input_ids=input_ids)
    if hasattr(backbone, "embeddings_project"):
        hidden = backbone.embeddings_project(hidden)
    heads = backbone.config.num_attention_heads

    def block(layer: Any, x: Tensor, attention: SelfAttention) -> Tensor:
        own, out = layer.attention.self, layer.attention.output
        mixed = attention(*(_split(project(x), heads) for project in (own.query, own.key, own.value)))
        x = out.LayerNorm(x + out.dense(mixed))
        return layer.output.LayerNorm(x + layer.output.dense(F.gelu(layer.intermediate.dense(x))))

    return stack.run(backbone.encoder.layer, block, hidden, lambda index: _bidirectional(mask))


def _distilbert(backbone: Any, input_ids: Tensor, mask: Tensor, stack: Stack) -> Tensor:
    heads = backbone.config.num_attention_heads

    def block(layer: Any, x: Tensor, attention: SelfAttention) -> Tensor:
        own = layer.attention
        mixed = attention(*(_split(project(x), heads) for project in (own.q_lin, own.k_lin, own.v_lin)))
        x = layer.sa_layer_norm(x + own.out_lin(mixed))
        return layer.output_layer_norm(x + layer.ffn.lin2(F.gelu(layer.ffn.lin1(x))))

    return stack.run(
        backbone.transformer.layer, block, backbone.embeddings(input_ids), lambda index: _bidirectional(mask)
    )


# Pre-LN


def _modernbert(backbone: Any, input_ids: Tensor, mask: Tensor, stack: Stack) -> Tensor:
    """Layer 0 has no input norm. A local layer sees local_attention/2 positions to either side; it has a
    rotary base of its own.
    """
    config = backbone.config
    heads, local = config.num_attention_heads, [kind == "sliding_attention" for kind in config.layer_types]

    def block(layer: Any, x: Tensor, attention: SelfAttention) -> Tensor:
        normed = x if layer is backbone.layers[0] else layer.attn_norm(x)
        query, key, value = layer.attn.Wqkv(normed).chunk(3, dim=-1)
        x = x + layer.attn.Wo(attention(_split(query, heads), _split(key, heads), _split(value, heads)))
        content, gate = layer.mlp.Wi(layer.mlp_norm(x)).chunk(2, dim=-1)
        return x + layer.mlp.Wo(F.gelu(content) * gate)

    near = _distance(mask).abs() <= config.local_attention // 2
    hidden = stack.run(
        backbone.layers,
        block,
        backbone.embeddings(input_ids),
        lambda index: _bidirectional(mask) & near if local[index] else _bidirectional(mask),
        lambda index: config.rope_parameters[config.layer_types[index]]["rope_theta"],
    )
    return backbone.final_norm(hidden)


def _gpt2(backbone: Any, input_ids: Tensor, mask: Tensor, stack: Stack) -> Tensor:
    heads = backbone.config.num_attention_heads

    def block(layer: Any, x: Tensor, attention: SelfAttention) -> Tensor:
        query, key, value = layer.attn.c_attn(layer.ln_1(x)).chunk(3, dim=-1)
        x = x + layer.attn.c_proj(attention(_split(query, heads), _split(key, heads), _split(value, heads)))
        return x + layer.mlp.c_proj(F.gelu(layer.mlp.c_fc(layer.ln_2(x)), approximate="tanh"))

    hidden = backbone.wte(input_ids) + backbone.wpe(torch.arange(input_ids.shape[1]))
    return backbone.ln_f(stack.run(backbone.h, block, hidden, lambda index: _causal(mask)))


def _llama(backbone: Any, input_ids: Tensor, mask: Tensor, stack: Stack) -> Tensor:
    """Llama, Qwen2 (biases on query, key and value; late layers may have a window), Qwen3 (query and key norm
    per head)
    """
    config = backbone.config
    windows = [
        config.sliding_window if kind == "sliding_attention" else None
        for kind in getattr(config, "layer_types", None) or []
    ]

    def block(layer: Any, x: Tensor, attention: SelfAttention) -> Tensor:
        own, normed = layer.self_attn, layer.input_layernorm(x)
        query = _split(own.q_proj(normed), config.num_attention_heads)
        key, value = (
            _split(project(normed), config.num_key_value_heads) for project in (own.k_proj, own.v_proj)
        )
        if config.model_type == "qwen3":
            query, key = own.q_norm(query), own.k_norm(key)
        x = x + own.o_proj(attention(query, key, value))
        normed = layer.post_attention_layernorm(x)
        return x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(normed)) * layer.mlp.up_proj(normed))

    hidden = stack.run(
        backbone.layers,
        block,
        backbone.embed_tokens(input_ids),
        lambda index: _causal(mask, windows[index] if windows else None),
        lambda index: config.rope_parameters["rope_theta"],
    )
    return backbone.norm(hidden)


# Encoder-decoder, post-LN


def _bart(
    backbone: Any, input_ids: Tensor, attention_mask: Tensor, decoder_text: Tensor, stack: Stack
) -> Tensor:
    """Encoder layers take the first prompts, decoder layers the rest. Cross-attention sees the encoder's text
    positions, no prompts.
    """
    config, mask = backbone.config, attention_mask.bool()
    heads = config.num_attention_heads

    def project(attention: Any, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            _split(attention.q_proj(x), heads),
            _split(attention.k_proj(memory), heads),
            _split(attention.v_proj(memory), heads),
        )

    def embed(part: Any, ids: Tensor) -> Tensor:
        scale = config.d_model**0.5 if config.scale_embedding else 1
        positions: nn.Embedding = part.embed_positions
        first = 2  # BART's position table has two rows of another use
        return part.layernorm_embedding(
            F.embedding(ids, backbone.shared.weight) * scale + positions.weight[first : first + ids.shape[1]]
        )

    def feed_forward(layer: Any, x: Tensor) -> Tensor:
        return layer.final_layer_norm(x + layer.fc2(F.gelu(layer.fc1(x))))

    def encoder_block(layer: Any, x: Tensor, attention: SelfAttention) -> Tensor:
        x = layer.self_attn_layer_norm(
            x + layer.self_attn.out_proj(attention(*project(layer.self_attn, x, x)))
        )
        return feed_forward(layer, x)

    def decoder_block(layer: Any, x: Tensor, attention: SelfAttention) -> Tensor:
        x = layer.self_attn_layer_norm(
            x + layer.self_attn.out_proj(attention(*project(layer.self_attn, x, x)))
        )
        mixed = _attend(*project(layer.encoder_attn, x, memory), mask[:, None, :].expand(-1, x.shape[1], -1))
        x = layer.encoder_attn_layer_norm(x + layer.encoder_attn.out_proj(mixed))
        return feed_forward(layer, x)

    first, second = stack.soft_prompts.split([config.encoder_layers, config.decoder_layers], dim=1)
    encoder, decoder = (replace(stack, soft_prompts=prompts) for prompts in (first, second))
    memory = encoder.run(
        backbone.encoder.layers,
        encoder_block,
        embed(backbone.encoder, input_ids),
        lambda index: _bidirectional(mask),
    )
    shifted = torch.cat(
        [torch.full_like(decoder_text[:, :1], config.decoder_start_token_id), decoder_text[:, :-1]], dim=1
    )
    everything = torch.ones_like(
        shifted, dtype=torch.bool
    )  # padding lies behind the text, where causal attention never looks
    return decoder.run(
        backbone.decoder.layers,
        decoder_block,
        embed(backbone.decoder, shifted),
        lambda index: _causal(everything),
    )


# Encoder-decoder, pre-LN


def _t5(
    backbone: Any, input_ids: Tensor, attention_mask: Tensor, decoder_text: Tensor, stack: Stack
) -> Tensor:
    """Each head adds a number by the distance of the two positions, the same in all layers of a stack, and 0
    for a prompt. Cross-attention has none.
    """
    config, mask = backbone.config, attention_mask.bool()
    heads = config.num_heads

    def project(attention: Any, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            _split(attention.q(x), heads),
            _split(attention.k(memory), heads),
            _split(attention.v(memory), heads),
        )

    def bucket(back: int, count: int) -> int:
        """0, 1, 2, … for the nearest half of the buckets, then ever more distances in one."""
        exact = count // 2
        if back < exact:
            return back
        grown = math.log(back / exact) / math.log(config.relative_attention_max_distance / exact)
        return min(exact + int(grown * (count - exact)), count - 1)

    def biases(part: Any, length: int, *, causal: bool) -> Tensor:
        table = part.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        count = config.relative_attention_num_buckets
        rows = []
        for i in range(length):
            for j in range(length):
                if causal:
                    rows.append(table[bucket(max(i - j, 0), count)])
                else:
                    rows.append(table[bucket(abs(i - j), count // 2) + (count // 2 if j > i else 0)])
        return torch.stack(rows).reshape(length, length, heads).permute(2, 0, 1)

    def own(layer: Any, x: Tensor, attention: SelfAttention, bias: Tensor) -> Tensor:
        part = layer.layer[0]
        normed = part.layer_norm(x)
        mixed = attention(*project(part.SelfAttention, normed, normed), bias)
        return x + part.SelfAttention.o(mixed)

    def feed_forward(layer: Any, x: Tensor) -> Tensor:
        part = layer.layer[-1]
        return x + part.DenseReluDense.wo(F.relu(part.DenseReluDense.wi(part.layer_norm(x))))

    def encoder_block(layer: Any, x: Tensor, attention: SelfAttention) -> Tensor:
        return feed_forward(layer, own(layer, x, attention, seen))

    def decoder_block(layer: Any, x: Tensor, attention: SelfAttention) -> Tensor:
        x = own(layer, x, attention, past)
        part = layer.layer[1]
        query, key, value = project(part.EncDecAttention, part.layer_norm(x), memory)
        none = torch.zeros(heads, x.shape[1], memory.shape[1], dtype=x.dtype)
        mixed = _attend(query, key, value, mask[:, None, :].expand(-1, x.shape[1], -1), bias=none)
        return feed_forward(layer, x + part.EncDecAttention.o(mixed))

    first, second = stack.soft_prompts.split([config.num_layers, config.num_decoder_layers], dim=1)
    encoder, decoder = (replace(stack, soft_prompts=prompts) for prompts in (first, second))
    seen = biases(backbone.encoder, input_ids.shape[1], causal=False)
    memory = encoder.run(
        backbone.encoder.block,
        encoder_block,
        F.embedding(input_ids, backbone.shared.weight),
        lambda index: _bidirectional(mask),
    )
    memory = backbone.encoder.final_layer_norm(memory)
    shifted = torch.cat(
        [torch.full_like(decoder_text[:, :1], config.decoder_start_token_id), decoder_text[:, :-1]], dim=1
    )
    past = biases(backbone.decoder, shifted.shape[1], causal=True)
    hidden = decoder.run(
        backbone.decoder.block,
        decoder_block,
        F.embedding(shifted, backbone.shared.weight),
        lambda index: _causal(torch.ones_like(shifted, dtype=torch.bool)),
    )
    return backbone.decoder.final_layer_norm(hidden)


_KINDS: dict[str, Callable[[Any, Tensor, Tensor, Stack], Tensor]] = {
    "bert": _bert,
    "roberta": _bert,
    "electra": _bert,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
    "gpt2": _gpt2,
    "llama": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
}
