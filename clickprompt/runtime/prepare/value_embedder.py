"""A frozen PLM that embeds texts (data/text/text_vectors.py)."""

import torch

from clickprompt.config import PLMConfig, PromptConfig
from clickprompt.data.text.template import load_tokenizer
from clickprompt.export.text_embedder import TextEmbedder

__all__ = ["ValueEmbedder", "as_embedder"]


class ValueEmbedder(TextEmbedder):
    """That of the PLM of a configuration, as it was before any training."""

    def __init__(self, config: PLMConfig, seed: int) -> None:
        """seed: of the weights with plm.random_init."""
        from clickprompt.models.plm_loading import load_plm  # transformers' models take seconds to import

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            plm = load_plm(as_embedder(config), PromptConfig(num_prompts=0), lm_head=False).eval()
        super().__init__(plm, load_tokenizer(config.path), config.max_length)


def as_embedder(config: PLMConfig) -> PLMConfig:
    """Leave out the settings of training, which don't change what a text's states are."""
    kept = {
        name: getattr(config, name) for name in ("path", "num_layers", "random_init", "dtype", "max_length")
    }
    return PLMConfig(**kept)
