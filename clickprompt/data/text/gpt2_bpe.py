"""Write GPT-2's byte-level BPE with RoBERTa's special tokens as a tokenizer folder.

RoBERTa (Liu et al. 2019, §4.4) cuts text by GPT-2's merges and numbers the pieces differently. So this
tokenizer gives RoBERTa's pieces, and with them its text lengths, but not its ids: it is only for models with
untrained weights.
"""

import os

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from clickprompt.io import storage

__all__ = ["GPT2_FILES", "write_gpt2_bpe"]

GPT2_FILES = ("encoder.json", "vocab.bpe")
_FIRST = ("<s>", "<pad>", "</s>", "<unk>")  # RoBERTa's ids 0-3
_MASK = "<mask>"  # RoBERTa's last id
_MAX_TOKENS = 512


def write_gpt2_bpe(folder: str) -> list[str]:
    """Write tokenizer.json and tokenizer_config.json beside GPT-2's encoder.json and vocab.bpe in `folder`,
    and return the names of the two.
    """
    encoder: dict[str, int] = storage.read_json(os.path.join(folder, GPT2_FILES[0]))
    lines = storage.read_bytes(os.path.join(folder, GPT2_FILES[1])).decode().split("\n")
    # The first line is a version
    merges = [(left, right) for left, right in (line.split(" ") for line in lines[1:] if line)]
    pieces = [piece for piece in sorted(encoder, key=encoder.__getitem__) if piece != "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate([*_FIRST, *pieces, _MASK])}
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    start, end = ((token, vocabulary[token]) for token in ("<s>", "</s>"))
    tokenizer.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=False)
    tokenizer.add_special_tokens([*_FIRST, AddedToken(_MASK, lstrip=True, special=True)])
    storage.write_bytes(os.path.join(folder, "tokenizer.json"), tokenizer.to_str().encode())
    roles = {
        "bos": "<s>",
        "cls": "<s>",
        "eos": "</s>",
        "sep": "</s>",
        "pad": "<pad>",
        "unk": "<unk>",
        "mask": _MASK,
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": _MAX_TOKENS}
    storage.write_json(
        os.path.join(folder, "tokenizer_config.json"),
        settings | {f"{role}_token": token for role, token in roles.items()},
    )
    return ["tokenizer.json", "tokenizer_config.json"]
