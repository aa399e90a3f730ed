"""Check a training run, and first make the tables of its dataset's texts where those are all it lacks."""

from clickprompt.config import Config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer
from clickprompt.errors import MissingTextVectorsError, MissingTokensError
from clickprompt.io.progress import say
from clickprompt.models.text_projection import text_size_of
from clickprompt.runtime.prepare.embed import embed_values
from clickprompt.runtime.prepare.tokenize import tokenize
from clickprompt.runtime.train.preflight import begun_with, check_training
from clickprompt.runtime.train.training_run import TrainingRun

__all__ = ["check_with_tokens"]


def check_with_tokens(
    config: Config, stage_name: str, run: str | None = None, *, again: bool = False
) -> TrainingRun:
    """Return what `check_training` does, but build the token table, or the text vectors of
    ctr.text_embeddings, if they aren't there yet.
    """
    try:
        return check_training(config, stage_name, run, again=again)
    except (MissingTokensError, MissingTextVectorsError) as missing:
        assert config.data.path is not None
        assert config.plm.path is not None
        dataset = Dataset.open(config.data.path, config.data.version or begun_with(run, config.data.path))
        if isinstance(missing, MissingTextVectorsError):
            size = text_size_of(config, stage_name)
            assert size is not None
            embed_values(dataset, config, size)
            return check_training(config, stage_name, run, again=again)
        say(f"{dataset.uri}: no token table of {config.plm.path} yet, building it")
        tokenize(dataset, load_tokenizer(config.plm.path), config.runtime)
    return check_training(config, stage_name, run, again=again)
