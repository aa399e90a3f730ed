"""Tiny real models for tests: a BERT of two layers with a WordPiece tokenizer that knows the synthetic dataset's words."""

import os

from transformers import BertConfig, BertTokenizerFast

from clickprompt.config import Config, load_config
from clickprompt.data.dataset import Dataset
from clickprompt.data.text import build_token_table, load_tokenizer
from tests.synthetic import FIELDS, WORDS, write_dataset


def write_plm(folder: str) -> str:
    """config.json and tokenizer of a BERT without dropout; no weights: for `plm.random_init`."""
    os.makedirs(folder)
    words = sorted({word for name in FIELDS for word in name.lower().split()} | set(WORDS) | {"is", ".", "unknown"})
    digits = [str(digit) for digit in range(10)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *digits, *(f"##{digit}" for digit in digits)]
    path = os.path.join(folder, "vocab.txt")
    with open(path, "w") as stream:
        stream.write("\n".join(vocabulary))
    BertTokenizerFast(vocab=path).save_pretrained(folder)
    BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ).save_pretrained(folder)
    return folder


def write_both(folder: str) -> tuple[Dataset, str]:
    """The synthetic dataset with the token table of a tiny PLM, and that PLM's folder."""
    plm = write_plm(os.path.join(folder, "plm"))
    dataset = write_dataset(os.path.join(folder, "data"))
    build_token_table(dataset, load_tokenizer(plm))
    return dataset, plm


def tiny_config(data: str, plm: str, **overrides: object) -> Config:
    """Small towers, dropout 0; dotted overrides with double underscores: pretrain__max_steps=5."""
    settings = {
        "data.path": data,
        "data.chunk_batches": 4,
        "plm.path": plm,
        "plm.random_init": True,
        "ctr.embedding_dim": 8,
        "ctr.hidden_dim": 16,
        "ctr.num_layers": 2,
        "prompt.num_prompts": 2,
        "pretrain.global_batch_size": 24,
        "pretrain.micro_batch_size": 12,
        "pretrain.epochs": 2,
        "pretrain.checkpoint_every": 5,
        "finetune.global_batch_size": 24,
        "finetune.micro_batch_size": 12,
        "finetune.validate_every": 4,
        "finetune.checkpoint_every": 4,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return load_config(None, [f"{key}={value}" for key, value in settings.items()])
