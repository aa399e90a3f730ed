"""The whole job from one configuration: fetch → prepare → pretrain → finetune (three ways) → evaluate → table.

Every stage is its own run below `<run>/` and is skipped when it is complete, so the same command continues after any interruption.
"""

from typing import Any

from clickprompt import storage
from clickprompt.config import Config, replaced
from clickprompt.data.dataset import Dataset
from clickprompt.data.fetch import fetch
from clickprompt.data.sources import get_source
from clickprompt.data.text import build_token_table, load_tokenizer
from clickprompt.evaluation.metrics import relative_improvement
from clickprompt.models.backbones import get_backbone
from clickprompt.progress import say
from clickprompt.runtime.cluster import check_cpus, connect
from clickprompt.runtime.evaluate import evaluate
from clickprompt.runtime.prepare import prepare
from clickprompt.runtime.train import run_training

__all__ = ["run_pipeline"]


def run_pipeline(config: Config, run: str) -> dict[str, Any]:
    """Returns {"rows": one per model of the final table, "run", "notice"}; also in `<run>/result.json`."""
    run = storage.native(run)
    get_source(config.pipeline.source)
    get_backbone(config.ctr.backbone)
    check_cpus(config.runtime)
    for stage in (config.pretrain, config.finetune):
        stage.micro_batches(config.runtime.num_workers)
    if config.pipeline.notice:
        say(config.pipeline.notice)

    downloads = config.pipeline.downloads
    raw = config.pipeline.raw or _fetch(config.pipeline.source, downloads)
    plm_path = _fetch(config.pipeline.fetch_plm, downloads) if config.pipeline.fetch_plm else config.plm.path
    data = storage.join(run, "data")
    config = replaced(config, {"plm.path": plm_path, "data.path": data})
    pretrained, names = storage.join(run, "pretrain"), _names(config)
    runs = {name: storage.join(run, folder) for name, folder in zip(names, ("scratch", "without-plm", "with-plm"), strict=True)}
    with_plm_steps = config.pipeline.with_plm_steps or config.finetune.max_steps
    changes = dict(
        zip(
            names,
            (
                {"finetune.with_plm": False, "finetune.init": None},
                {"finetune.with_plm": False, "finetune.init": pretrained},
                {"finetune.with_plm": True, "finetune.init": pretrained, "finetune.max_steps": with_plm_steps},
            ),
            strict=True,
        )
    )
    with connect(config.runtime):
        dataset = prepare(config.pipeline.source, raw, data, seed=config.seed)
        assert config.plm.path is not None
        build_token_table(dataset, load_tokenizer(config.plm.path))
        run_training(config, "pretrain", pretrained)
        steps = {}
        for name, folder in runs.items():
            say(f"{name}: {folder}")
            steps[name] = run_training(replaced(config, changes[name]), "finetune", folder)["step"]
        scores = dict(zip(names, _scores(list(runs.values()), config), strict=True))
    base = scores[names[0]]["auc"]
    rows = [
        {
            "model": name,
            "steps": steps[name],
            "test_auc": score["auc"],
            "test_log_loss": score["log_loss"],
            "relative_improvement": relative_improvement(score["auc"], base),
            "ms_per_batch_128": score["ms_per_batch"],
            "run": score["run"],
        }
        for name, score in scores.items()
    ]
    result = {"rows": rows, "run": run, "notice": config.pipeline.notice, "counts": dict(Dataset.open(data).counts)}
    storage.write_json(storage.join(run, "result.json"), result)
    return result


def _names(config: Config) -> tuple[str, str, str]:
    backbone = config.ctr.backbone
    return f"{backbone} from scratch", "ClickPrompt without PLM", "ClickPrompt with PLM"


def _fetch(name: str, downloads: str) -> str:
    result = fetch(name, storage.join(downloads, name))
    say(f"{name}: {result.path} ({result.origin})")
    return result.path


def _scores(runs: list[str], config: Config) -> list[dict[str, Any]]:
    paths = [storage.join(run, "evaluation-test.json") for run in runs]
    if all(storage.exists(path) for path in paths):
        return [storage.read_json(path) for path in paths]
    return evaluate(runs, "test", config=config)
