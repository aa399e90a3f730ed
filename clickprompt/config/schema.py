"""The whole configuration of a run, section by section. `docs/config.md` is made from it (reference.py)."""

from typing import Literal

from pydantic import Field

from clickprompt.config.base import Frozen
from clickprompt.config.baselines import CTRBertConfig, CTRLConfig, P5Config
from clickprompt.config.models import CTRConfig, PLMConfig, PromptConfig
from clickprompt.config.runtime import RuntimeConfig
from clickprompt.config.stages import EvaluateConfig, FinetuneConfig, MaskingConfig, PretrainConfig
from clickprompt.config.sweep import TuneConfig
from clickprompt.errors import InputError

__all__ = ["SPLITS", "Config", "DataConfig", "PipelineConfig", "require_split"]


class DataConfig(Frozen):
    """Which prepared dataset a run reads, and how its rows are ordered (data/prepared/order.py)."""

    path: str | None = Field(
        default=None, description="folder written by `clickprompt prepare` (path or URI)"
    )
    version: int | None = Field(
        default=None,
        ge=1,
        description="version of the dataset; default: the newest when the run starts, and the same one "
        "whenever it continues",
    )
    rows: Literal["all", "new"] = Field(
        default="all",
        description="rows to train on; new: only the training rows that this version adds to the one before",
    )
    chunk_batches: int = Field(
        default=64, ge=1, description="number of global batches that one read task shuffles together"
    )
    id_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="rate at which a training id is replaced by the unknown id 0"
    )


class PipelineConfig(Frozen):
    """What `clickprompt pipeline` runs on: which log, and which PLM."""

    source: str = Field(
        default="movielens-100k",
        description="source, as for `clickprompt prepare`: a known log's name, or a YAML file",
    )
    raw: str | None = Field(
        default=None,
        description="folder with the source's raw files; default: fetch them into `downloads`; a YAML file "
        "names its own",
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        description="time in which all should end, by the time that a step takes: max_steps and "
        "validate_every are set to fit; default: as they are configured",
    )
    split: Literal["time", "hash"] | None = Field(
        default=None,
        description="how rows are split 8:1:1, as for `clickprompt prepare`; default: the source's",
    )
    template: Literal["sentence", "compact"] | None = Field(
        default=None, description="text of a row, as for `clickprompt prepare`; default: the source's"
    )
    fetch_plm: str | None = Field(
        default=None, description="PLM that `clickprompt fetch` knows, used where plm.path is not set"
    )
    finetune_workers: int | None = Field(
        default=None,
        ge=1,
        description="workers of the finetunings; default: runtime.num_workers. With 1 each trains in the "
        "command's own process if nothing else needs Ray: few labels take less time than a group's start",
    )
    downloads: str = Field(default="data", description="folder for what is fetched")
    notice: str | None = Field(
        default=None, description="what the run doesn't show: printed below its table, and in its report"
    )


class Config(Frozen):
    """A run's whole configuration."""

    seed: int = Field(default=0, ge=0, description="seed of weights, order, masks, dropout and hashed splits")
    baseline: str = Field(
        default="none",
        description="model to train in ClickPrompt's place, on the same stream: none, ctr_bert, ctrl, p5 or "
        "ptab",
    )
    data: DataConfig = DataConfig()
    ctr: CTRConfig = CTRConfig()
    plm: PLMConfig = PLMConfig()
    prompt: PromptConfig = PromptConfig()
    ctr_bert: CTRBertConfig = CTRBertConfig()
    ctrl: CTRLConfig = CTRLConfig()
    p5: P5Config = P5Config()
    masking: MaskingConfig = MaskingConfig()
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tune: TuneConfig = TuneConfig()
    pipeline: PipelineConfig = PipelineConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def stage(self, name: str) -> PretrainConfig | FinetuneConfig:
        """Return the section of a stage: pretrain, or else finetune."""
        return self.pretrain if name == "pretrain" else self.finetune


SPLITS = ("train", "valid", "test")


def require_split(split: str) -> str:
    """Return the name of the split. Raises InputError if it is unknown."""
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; known splits: {', '.join(SPLITS)}")
    return split
