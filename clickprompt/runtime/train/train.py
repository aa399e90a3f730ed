"""Run pretraining and finetuning, on Ray Train or in this process: the driver's side."""

from dataclasses import asdict
from typing import Any

from clickprompt.config import Config
from clickprompt.export.format import export_of
from clickprompt.io import storage
from clickprompt.io.environment import environment
from clickprompt.io.progress import say
from clickprompt.runtime.in_process import in_process, say_why_ray
from clickprompt.runtime.train.resume import clear_checkpoints
from clickprompt.runtime.train.tokens import check_with_tokens
from clickprompt.runtime.train.training_run import Around, TrainingRun
from clickprompt.runtime.train.watched import Watch
from clickprompt.training.carry_over import FieldCarried, match_values, values_of

__all__ = ["Watch", "run_training"]


def run_training(
    config: Config,
    stage_name: str,
    run: str,
    *,
    watch: Watch | None = None,
    around: Around | None = None,
    here: bool = False,
) -> dict[str, Any]:
    """Pretrain or finetune into `run`, and return `result.json`.

    Running it again continues from the newest complete checkpoint.

    watch: called twice a second with what is known of the latest step ({} before the first); if it returns
    True, the run stops as after a signal.
    here: train in this process, even if it is connected to a Ray.
    """
    training = check_with_tokens(config, stage_name, run)
    run = training.run
    result_path = storage.join(run, "result.json")
    if storage.exists(result_path):
        say(f"{stage_name}: {run} is already complete")
        return storage.read_json(result_path)
    clear_checkpoints(run)
    training.start_step()  # raises here, not in a worker, if the run can't continue from its checkpoint
    say(f"{stage_name}: {training.dataset.uri}, version {training.dataset.version}")
    carried = _carried_over(training)
    # Each is imported only if it is used, because Ray takes seconds to import
    if here or in_process(config.runtime):
        from clickprompt.runtime.train.in_process import fit
    else:
        say_why_ray(config.runtime)
        from clickprompt.runtime.train.on_ray import fit
    outcome = fit(training, watch, around)
    result = {
        "stage": stage_name,
        "objective": training.objective,
        "run": run,
        "dataset": {
            "path": training.dataset.uri,
            "version": training.dataset.version,
            "fingerprint": training.dataset.fingerprint,
        },
        "carried_over": [asdict(field) for field in carried] if carried else None,
        "export": export_of(run),
        "rows": training.order.num_rows,
        "planned_steps": training.order.total_steps,
        "num_workers": config.runtime.num_workers,
        "truncation": training.truncation.to_json() if training.truncation else None,
        "environment": environment(),
        **outcome,
    }
    storage.patiently(lambda: storage.write_json(result_path, result))
    return result


def _carried_over(training: TrainingRun) -> list[FieldCarried] | None:
    """Match and print the embeddings that a run takes over from other data; None if there is nothing to
    match.
    """
    if training.earlier is None:
        return None
    _, carried = match_values(values_of(training.earlier), values_of(training.dataset))
    origin = f"{training.earlier.uri}, version {training.earlier.version}"
    say(f"embeddings from {training.init}, of {origin}, matched by value:")
    for field in carried:
        say(f"  {field.field}: {field.kept:,} kept, {field.new:,} new, {field.gone:,} gone")
    return carried
