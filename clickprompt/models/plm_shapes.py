"""Architectures of public PLMs, from their config.json: planning a run with one needs no network."""

from typing import Any

__all__ = ["SHAPES"]


def _bert(layers: int, hidden: int, heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": 30_522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }


def _roberta(layers: int, hidden: int, heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "model_type": "roberta",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": 50_265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    }


def _gpt2(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "n_layer": layers,
        "n_embd": hidden,
        "n_head": heads,
        "n_positions": 1024,
        "vocab_size": 50_257,
    }


def _bart(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "bart",
        "encoder_layers": layers,
        "decoder_layers": layers,
        "d_model": hidden,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * hidden,
        "decoder_ffn_dim": 4 * hidden,
        "vocab_size": 50_265,
        "max_position_embeddings": 1024,
        "pad_token_id": 1,
    }


def _t5(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "num_layers": layers,
        "d_model": hidden,
        "d_kv": 64,
        "num_heads": heads,
        "d_ff": 4 * hidden,
        "vocab_size": 32_128,
        "n_positions": 512,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "FacebookAI/roberta-base": _roberta(12, 768, 12, 3072),
    "FacebookAI/roberta-large": _roberta(24, 1024, 16, 4096),
    "google-bert/bert-base-uncased": _bert(12, 768, 12, 3072),
    "google-bert/bert-large-uncased": _bert(24, 1024, 16, 4096),
    "huawei-noah/TinyBERT_General_4L_312D": _bert(4, 312, 12, 1200),
    "sentence-transformers/all-MiniLM-L6-v2": _bert(6, 384, 12, 1536),
    "distilbert/distilbert-base-uncased": {
        "model_type": "distilbert",
        "n_layers": 6,
        "dim": 768,
        "n_heads": 12,
        "hidden_dim": 3072,
        "vocab_size": 30_522,
        "max_position_embeddings": 512,
    },
    "openai-community/gpt2": _gpt2(12, 768, 12),
    "openai-community/gpt2-medium": _gpt2(24, 1024, 16),
    "openai-community/gpt2-large": _gpt2(36, 1280, 20),
    "facebook/bart-base": _bart(6, 768, 12),
    "google-t5/t5-small": _t5(6, 512, 8),
    "google-t5/t5-base": _t5(12, 768, 12),
    "meta-llama/Llama-2-7b-hf": {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "intermediate_size": 11_008,
        "vocab_size": 32_000,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen2.5-7B": {
        "model_type": "qwen2",
        "num_hidden_layers": 28,
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18_944,
        "vocab_size": 152_064,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
    },
}
"""hub name → config.json"""
