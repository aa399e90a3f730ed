"""Small tokenizers of every kind, trained on the spot."""

import json
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "User ID is 12. Gender is female.",
    "Movie ID is red 7. Film genre is quiet 3.",
    "Café is old. unknown",
]
TEXTS.append("a b c d e 0 1 2 3 4 5 6 7 8 9 < > [ ] /")


@cache  # training twice does not give the same ids
def wordpiece() -> PreTrainedTokenizerFast:
    """As BERT's: lower case, accents stripped, punctuation apart, [CLS] … [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{name}_token": token for name, token in names.items()}
    )


@cache
def byte_level_bpe() -> PreTrainedTokenizerFast:
    """As RoBERTa's: case kept, the space before a word is part of it, <s> … </s>."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    _train_bytes(backend, special)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = dict(zip(("bos", "pad", "eos", "unk", "mask"), special, strict=True))
    tokens = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", **tokens)


@cache
def gpt2() -> PreTrainedTokenizerFast:
    """As GPT-2's: byte-level BPE, nothing around the text, one special token that is neither padding nor
    mask.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    _train_bytes(backend, ["<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    )


@cache
def digits_apart() -> PreTrainedTokenizerFast:
    """As Qwen's: byte-level BPE on a split that takes every digit alone and a space to words only."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
        r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    _train_bytes(backend, ["<|endoftext|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


@cache
def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama's: a dummy space before the text, spaces are visible in the tokens, <s> before, nothing
    after.
    """
    backend = _trained_sentencepiece()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@cache
def sentencepiece_doubling() -> PreTrainedTokenizerFast:
    """As Llama's older files: the dummy space comes also before a text that begins with a space."""
    backend = _trained_sentencepiece()
    backend.pre_tokenizer = pre_tokenizers.Sequence([])
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@cache
def sentencepiece_bytes() -> PreTrainedTokenizerFast:
    """As Llama's, every character within reach: what the pieces don't cover is spelled in bytes. Nothing
    around the text.

    A token was added that is not special, so a text that holds it is cut there, and "always" puts the dummy
    space before each part.
    """
    trained = json.loads(_trained_sentencepiece().to_str())["model"]
    vocabulary = dict(trained["vocab"])
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = [(left, right) for left, right in trained["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens([AddedToken("<tool>", special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@cache
def unigram() -> PreTrainedTokenizerFast:
    """As XLM-R's: Unigram pieces with the special tokens among them, Unicode normalised, runs of spaces as
    one, <s> … </s>.
    """
    return _unigram(pre_tokenizers.Metaspace(prepend_scheme="always"), "<s> $A </s>")


@cache
def unigram_first() -> PreTrainedTokenizerFast:
    """The dummy space before the text's first part only, no cut at spaces, </s> after."""
    return _unigram(pre_tokenizers.Metaspace(prepend_scheme="first", split=False), "$A </s>")


@cache
def unigram_words() -> PreTrainedTokenizerFast:
    """As T5's: every word by itself, so that the spaces between words are all dummies; </s> after; a sentinel
    and no mask token.
    """
    words = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    return _unigram(words, "$A </s>", masked="<extra_id_0>")


@cache
def split_at_spaces() -> PreTrainedTokenizerFast:
    """Whole words with the punctuation after them, so that a value's last token holds the template's full
    stop too.
    """
    words = ["<unk>", *sorted({word for line in TEXTS for word in line.split()} | {"unknown."})]
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def unjoinable() -> PreTrainedTokenizerFast:
    """A letter before every text, so that parts don't join to the whole."""
    backend = _trained_sentencepiece()
    backend.normalizer = normalizers.Prepend("x")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


def _train_bytes(backend: Tokenizer, special: list[str]) -> None:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )


def _trained_sentencepiece() -> Tokenizer:
    """Its pieces hold a space at their start only, as SentencePiece's do."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False),
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def _unigram(
    pre_tokenizer: pre_tokenizers.PreTokenizer, around: str, masked: str = "<mask>"
) -> PreTrainedTokenizerFast:
    special = ["<s>", "<pad>", "</s>", "<unk>", masked]
    backend = Tokenizer(models.Unigram())
    one_space = normalizers.Replace(Regex(" {2,}"), "▁")
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Strip(left=False, right=True), one_space]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(TEXTS * 20, trainer)
    backend.pre_tokenizer = pre_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokens: dict[str, Any] = dict(
        zip(("bos_token", "pad_token", "eos_token", "unk_token"), special, strict=False)
    )
    if masked == "<mask>":
        tokens["mask_token"] = masked
    else:
        tokens["additional_special_tokens"] = [masked]
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
