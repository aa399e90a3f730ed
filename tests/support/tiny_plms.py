"""Tiny random PLMs of every family, saved the way the hub has them."""

from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB, PAD = 50, 1
# model_type → transformers' class with the LM head, without "Config" and the like
_CLASSES = {
    "bert": ("Bert", "ForMaskedLM"),
    "roberta": ("Roberta", "ForMaskedLM"),
    "distilbert": ("DistilBert", "ForMaskedLM"),
    "electra": ("Electra", "ForMaskedLM"),
    "modernbert": ("ModernBert", "ForMaskedLM"),
    "gpt2": ("GPT2", "LMHeadModel"),
    "llama": ("Llama", "ForCausalLM"),
    "qwen2": ("Qwen2", "ForCausalLM"),
    "qwen3": ("Qwen3", "ForCausalLM"),
    "bart": ("Bart", "ForConditionalGeneration"),
    "t5": ("T5", "ForConditionalGeneration"),
}
FAMILIES = tuple(_CLASSES)
_SHARED = {
    "vocab_size": VOCAB,
    "pad_token_id": PAD,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,  # large enough for attention to be far from uniform
}
_BERT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# Half-windows of 2 tokens, narrower than the texts of the tests; layers 0 and 2 are global, layer 1 is local.
_MODERNBERT = {
    "local_attention": 4,
    "global_attn_every_n_layers": 2,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "norm_bias": True,
}
_BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "dropout": 0.0,
    "init_std": 0.3,
    "scale_embedding": True,
    "decoder_start_token_id": 3,
    "forced_eos_token_id": 3,
}
# Heads wider than hidden size / heads; buckets so few that texts of the tests reach the last ones
_T5 = {
    "vocab_size": VOCAB,
    "pad_token_id": PAD,
    "eos_token_id": 3,
    "decoder_start_token_id": PAD,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 7,
    "dropout_rate": 0.0,
    "n_positions": 40,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _SHARED | _BERT),
    "roberta": ("roberta", _SHARED | _BERT),
    "distilbert": ("distilbert", _SHARED | {"hidden_dim": 24, "dropout": 0.0, "attention_dropout": 0.0}),
    "electra": ("electra", _SHARED | _BERT | {"embedding_size": 16}),
    "electra-small": (
        "electra",
        _SHARED | _BERT | {"embedding_size": 8},
    ),  # embeddings are projected to the hidden size
    "modernbert": ("modernbert", _SHARED | _MODERNBERT),
    "gpt2": ("gpt2", _SHARED | {"n_inner": 24, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "llama": ("llama", _SHARED),
    "llama-grouped": ("llama", _SHARED | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", _SHARED | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2-window": (
        "qwen2",
        _SHARED
        | {"num_key_value_heads": 4, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    # Heads wider than hidden size / heads, as Qwen3's are.
    "qwen3": ("qwen3", _SHARED | {"num_key_value_heads": 2, "head_dim": 6, "tie_word_embeddings": True}),
    "bart": (
        "bart",
        {key: _SHARED[key] for key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
        | _BART
        | {"max_position_embeddings": 40},
    ),
    "t5": ("t5", _T5),
}
"""name → (model_type, config): every family, and shapes within a family that need code of their own"""


def save_plm(folder: Path, variant: str, **changes: Any) -> str:
    """config.json and model.safetensors of a random model with no dropout."""
    model_type, values = VARIANTS[variant]
    name, head = _CLASSES[model_type]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = getattr(transformers, name + head)(getattr(transformers, f"{name}Config")(**values | changes))
        with torch.no_grad():
            # transformers starts biases at 0 and norms at 1, where leaving one out is not seen.
            for tensor in [
                *(p for p in model.parameters() if p.dim() == 1),
                *(b for n, b in model.named_buffers() if n == "final_logits_bias"),
            ]:
                tensor += 0.3 * torch.randn_like(tensor)
        model.save_pretrained(folder)
    return str(folder)
