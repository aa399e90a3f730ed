"""Checks of further labels as tasks before a training starts."""

import difflib
from collections.abc import Sequence

from clickprompt.config import CLICK, Config, FinetuneConfig, tasks_of
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ConfigError

__all__ = ["check_same_tasks", "check_tasks"]


def check_tasks(config: Config, stage_name: str, dataset: Dataset) -> None:
    """Raise ConfigError for settings of tasks that the dataset has no labels for, and for what can't be
    combined with several labels. A pretraining knows none.
    """
    stage = config.stage(stage_name)
    if not isinstance(stage, FinetuneConfig):
        return
    if config.ctr.tasks == "mmoe" and config.baseline != "none":
        raise ConfigError(f"ctr.tasks=mmoe: baseline={config.baseline} learns the click alone; leave it out")
    if config.ctr.tasks == "mmoe" and not dataset.labels:
        raise ConfigError(
            f"ctr.tasks=mmoe: {dataset.uri} has no labels besides the click; name them in its schema "
            "(labels) and prepare it in a new place, or leave ctr.tasks out"
        )
    tasks = tasks_of(config, dataset.labels)
    for name in stage.task_weights:
        if name not in (CLICK, *tasks):
            near = difflib.get_close_matches(name, (CLICK, *tasks), n=1, cutoff=0.0)[0]
            learned = f"the nearest label that is learned is {near}" if tasks else "only the click is learned"
            raise ConfigError(f"finetune.task_weights.{name}: no such label; {learned}")
    if not tasks:
        if stage.task_weights:
            raise ConfigError(
                f"finetune.task_weights.{CLICK}: only the click is learned, and there is nothing to weigh it "
                "against; leave it out"
            )
        return
    remedy = "to learn the click alone, set ctr.tasks=none"
    if stage.loss != "bce":
        raise ConfigError(
            f"finetune.loss={stage.loss} orders rows by the click, and the log has labels besides "
            f"({', '.join(tasks)}); set finetune.loss=bce, or {remedy}"
        )
    if stage.with_plm and config.plm.click_text:
        raise ConfigError(
            "plm.click_text=true asks the PLM for the click in words, and the log has labels besides "
            f"({', '.join(tasks)}) that the text doesn't name; set it to false, or {remedy}"
        )


def check_same_tasks(what: str, earlier: Sequence[str], now: Sequence[str]) -> None:
    """Raise ConfigError if a finetuning starts from one of other labels, whose heads would be taken for its
    own. One that learned the click alone has none.
    """
    if earlier and tuple(earlier) != tuple(now):
        learns = ", ".join(now) or "none"
        raise ConfigError(
            f"{what}: learned the labels {', '.join(earlier)} beside the click, and this run {learns}; use a "
            "dataset with the same labels in the same order, or start from the pretraining"
        )
