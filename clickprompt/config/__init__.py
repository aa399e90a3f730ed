"""The whole configuration in one place: frozen models, YAML presets and dotted `--set` overrides."""

from clickprompt.config.base import (
    PRETRAINING,
    Frozen,
    IdObjective,
    LMKind,
    ObjectiveName,
    Pooling,
    Precision,
    ScoringPrecision,
)
from clickprompt.config.baselines import CTRBertConfig, CTRLConfig, P5Config
from clickprompt.config.history import EVENT_SIZES, MOST_HISTORY, EventWord, History, history_columns
from clickprompt.config.labels import check_labels
from clickprompt.config.layout import Layout
from clickprompt.config.load import (
    check_key,
    dump_config,
    load_config,
    load_settings,
    preset_names,
    replaced,
    stored_config,
    value_of,
)
from clickprompt.config.models import CTRConfig, FGCNNConfig, LoRAConfig, PLMConfig, PromptConfig
from clickprompt.config.multi import DEFAULT_VALUES, MOST_VALUES, Multi, multi_columns
from clickprompt.config.numbers import MILLION, MOST_DEVIATIONS, number_columns
from clickprompt.config.runtime import RuntimeConfig
from clickprompt.config.schema import SPLITS, Config, DataConfig, PipelineConfig, require_split
from clickprompt.config.stages import (
    EvaluateConfig,
    FinetuneConfig,
    FinetuneLearningRates,
    LearningRates,
    MaskingConfig,
    PretrainConfig,
    StageConfig,
)
from clickprompt.config.sweep import SearchRange, TuneConfig
from clickprompt.config.tasks import CLICK, LABEL_NAME, TASK_KEYS, label_columns, tasks_of

__all__ = [
    "CLICK",
    "DEFAULT_VALUES",
    "EVENT_SIZES",
    "LABEL_NAME",
    "MILLION",
    "MOST_DEVIATIONS",
    "MOST_HISTORY",
    "MOST_VALUES",
    "PRETRAINING",
    "SPLITS",
    "TASK_KEYS",
    "CTRBertConfig",
    "CTRConfig",
    "CTRLConfig",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "EventWord",
    "FGCNNConfig",
    "FinetuneConfig",
    "FinetuneLearningRates",
    "Frozen",
    "History",
    "IdObjective",
    "LMKind",
    "Layout",
    "LearningRates",
    "LoRAConfig",
    "MaskingConfig",
    "Multi",
    "ObjectiveName",
    "P5Config",
    "PLMConfig",
    "PipelineConfig",
    "Pooling",
    "Precision",
    "PretrainConfig",
    "PromptConfig",
    "RuntimeConfig",
    "ScoringPrecision",
    "SearchRange",
    "StageConfig",
    "TuneConfig",
    "check_key",
    "check_labels",
    "dump_config",
    "history_columns",
    "label_columns",
    "load_config",
    "load_settings",
    "multi_columns",
    "number_columns",
    "preset_names",
    "replaced",
    "require_split",
    "stored_config",
    "tasks_of",
    "value_of",
]
