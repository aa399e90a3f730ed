"""Tiny real models for tests: a BERT of two layers with a WordPiece tokenizer that knows the synthetic
dataset's words.
"""

import os

from transformers import BartConfig, BertConfig, BertTokenizerFast, GPT2Config

from clickprompt.config import Config, load_config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from tests.support.synthetic import FIELDS, WORDS, write_dataset

BART_STACK = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}


def _plm_config(family: str, vocab_size: int):
    """Two layers (BART: of each stack), no dropout."""
    if family == "gpt2":
        quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=64, **quiet)
    if family == "bart":
        sizes = {
            f"{stack}_{key}": value for stack in ("encoder", "decoder") for key, value in BART_STACK.items()
        }
        return BartConfig(
            vocab_size=vocab_size,
            d_model=32,
            max_position_embeddings=64,
            dropout=0.0,
            pad_token_id=0,
            **sizes,
        )
    assert family == "bert"
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


CLICK_WORDS = ("clicked", "yes", "no")
"""what a tokenizer must know besides for `plm.click_text`"""


def write_plm(folder: str, family: str = "bert", more_words: tuple[str, ...] = ()) -> str:
    """config.json and tokenizer of a PLM without dropout; no weights: for `plm.random_init`. All families get
    the same tokenizer.
    """
    os.makedirs(folder)
    words = sorted(
        {word for name in FIELDS for word in name.lower().split()} | set(WORDS) | {"is", ".", "unknown"}
    )
    digits = [str(digit) for digit in range(10)]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *words,
        *digits,
        *(f"##{digit}" for digit in digits),
        *more_words,
    ]
    path = os.path.join(folder, "vocab.txt")
    with open(path, "w") as stream:
        stream.write("\n".join(vocabulary))
    BertTokenizerFast(vocab=path).save_pretrained(folder)
    _plm_config(family, len(vocabulary)).save_pretrained(folder)
    return folder


def write_both(
    folder: str, template: str | None = None, more_words: tuple[str, ...] = ()
) -> tuple[Dataset, str]:
    """The synthetic dataset with the token table of a tiny PLM, and that PLM's folder."""
    plm = write_plm(os.path.join(folder, "plm"), more_words=more_words)
    dataset = write_dataset(os.path.join(folder, "data"), template=template)
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
