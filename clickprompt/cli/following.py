"""The command that comes after a finished one, as a line that can be typed."""

import shlex
from collections.abc import Iterable

__all__ = [
    "after_evaluating",
    "after_finetuning",
    "after_pipeline",
    "after_preparing",
    "after_pretraining",
    "after_tokenizing",
]


def after_preparing(dataset: str) -> str:
    """Return how to pretrain with a PLM, or how to train without one."""
    alone = ["--set", f"data.path={dataset}", "--set", "finetune.with_plm=false", "--run", "RUN"]
    return f"{after_tokenizing(dataset, 'PLM')}, or without a PLM {_line('finetune', *alone)}"


def after_tokenizing(dataset: str, plm: str) -> str:
    """Return how to pretrain with the tokenizer's PLM."""
    settings = ["--set", f"data.path={dataset}", "--set", f"plm.path={plm}"]
    return _line("pretrain", *settings, "--run", "RUN")


def after_pretraining(
    run: str, config: str | None, overrides: Iterable[str] | None, *, with_plm: bool = True
) -> str:
    """Return how to finetune from the run, with its own settings but those of pretraining.

    with_plm: whether the run was pretrained with a PLM; where it wasn't, nor is the finetuning.
    """
    dropped = ("pretrain.", "finetune.init=", *(() if with_plm else ("finetune.with_plm=",)))
    kept = [one for one in overrides or [] if not one.startswith(dropped)]
    alone = [] if with_plm else ["finetune.with_plm=false"]
    settings = [part for one in [*kept, *alone, f"finetune.init={run}"] for part in ("--set", one)]
    given = ["--config", config] if config else []
    return _line("finetune", *given, *settings, "--run", f"{run.rstrip('/')}-finetuned")


def after_finetuning(run: str) -> str:
    """Return how to score the run on the test split."""
    return _line("evaluate", "--run", run)


def after_pipeline(run: str) -> str:
    """Return how to score new rows with the best of a pipeline's models."""
    return _line("predict", "--run", run, "--rows", "FILE")


def after_evaluating(run: str, *, predicts: bool) -> str:
    """Return how to see the figures, and how to score new rows with a run that `predicts` clicks."""
    new_rows = ["--run", run, "--rows", "FILE"]
    report = _line("report", run)
    return f"{report}, or for new rows {_line('predict', *new_rows)}" if predicts else report


def _line(*words: str) -> str:
    return shlex.join(["clickprompt", *words])
