"""The paper's PLM-based baselines (Appendix B.2) by name; baseline.py defines the interface."""

from clickprompt.config import Config
from clickprompt.errors import ConfigError
from clickprompt.models.baselines.baseline import Baseline
from clickprompt.models.baselines.ctr_bert import CTRBert
from clickprompt.models.baselines.ctrl import CTRL
from clickprompt.models.baselines.p5 import P5
from clickprompt.models.baselines.ptab import PTab

__all__ = ["BASELINES", "Baseline", "check_baseline", "get_baseline"]

BASELINES: dict[str, type[Baseline]] = {"ctr_bert": CTRBert, "ctrl": CTRL, "p5": P5, "ptab": PTab}


def get_baseline(name: str) -> type[Baseline] | None:
    """Return the baseline's class; None for `none`, which is ClickPrompt.

    Raises ConfigError for an unknown name.
    """
    if name == "none":
        return None
    if name not in BASELINES:
        raise ConfigError(f"baseline={name!r}: no such baseline; known: none, {', '.join(sorted(BASELINES))}")
    return BASELINES[name]


def check_baseline(config: Config, stage_name: str) -> None:
    """Raise ConfigError for an unknown baseline, or settings that it can't follow."""
    baseline = get_baseline(config.baseline)
    if baseline is not None:
        baseline.check(config, stage_name)
