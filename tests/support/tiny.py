"""Tiny real models for tests: a BERT of two layers with a WordPiece tokenizer that knows the synthetic
dataset's words.
"""

import os

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BertConfig,
    BertTokenizerFast,
    GPT2Config,
    PreTrainedTokenizerFast,
    T5Config,
)

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
    if family == "t5":
        return T5Config(
            vocab_size=vocab_size,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
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


def _t5_tokenizer() -> PreTrainedTokenizerFast:
    """As T5's: Unigram pieces, each word by itself, </s> after the text, sentinels and no mask token. The
    answers no and yes are tokens 4 and 5.
    """
    words = {word for name in FIELDS for word in name.split()} | set(WORDS) | {"is", "unknown"}
    digits = [str(digit) for digit in range(10)]
    pieces = ["▁no", "▁yes", *(f"▁{word}" for word in sorted(words)), *(f"▁{digit}" for digit in digits)]
    letters = ["▁", ".", *digits, *"abcdefghijklmnopqrstuvwxyz"]
    special = ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    scored = [(piece, 0.0) for piece in special]
    scored += [(piece, -2.0) for piece in pieces] + [(letter, -5.0) for letter in letters]
    backend = Tokenizer(models.Unigram(scored, unk_id=2, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<extra_id_0>"],
    )


def write_plm(folder: str, family: str = "bert", more_words: tuple[str, ...] = ()) -> str:
    """config.json and tokenizer of a PLM without dropout; no weights: for `plm.random_init`. All families but
    T5 get the same tokenizer.
    """
    os.makedirs(folder)
    if family == "t5":
        tokenizer = _t5_tokenizer()
        tokenizer.save_pretrained(folder)
        _plm_config(family, len(tokenizer)).save_pretrained(folder)
        return folder
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
