"""Run the whole job by one configuration: fetch, prepare, pretrain, finetune (three ways), evaluate, report.

Every stage is its own run below `<run>/` and is skipped when it is complete, so the same command continues
after any interruption.
"""

from typing import Any

from clickprompt.config import Config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.sources.fetch import fetch
from clickprompt.data.sources.registry import require_source
from clickprompt.data.text.template import load_tokenizer
from clickprompt.errors import ConfigError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.models.backbones import get_backbone
from clickprompt.report.make import make_report
from clickprompt.runtime.cluster.connect import check_cpus, connect
from clickprompt.runtime.cluster.surroundings import check_temporary
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.tokenize import tokenize
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.train.preflight import check_batches, claim
from clickprompt.runtime.train.train import run_training

__all__ = ["run_pipeline"]


def run_pipeline(config: Config, run: str) -> dict[str, Any]:
    """Run all stages that aren't complete; write `<run>/result.json` and return its content.

    That is {"rows": one per model of the final table (report/opening.py), "conclusion", "run", "notice",
    "counts", "report"}. Raises InputError, before anything starts, if the configuration can't work.
    """
    run = storage.native(run)
    require_source(config.pipeline.source)
    get_backbone(config.ctr.backbone)
    if not config.prompt.num_prompts:
        raise ConfigError(
            "prompt.num_prompts=0: the pipeline pretrains a CTR tower, which the PLM reaches through "
            "prompts only; use at least 1"
        )
    check_cpus(config.runtime)
    check_temporary(config.runtime)
    for stage in (config.pretrain, config.finetune):
        check_batches(stage, config.runtime)
    claim(run, config)
    result_path = storage.join(run, "result.json")
    if storage.exists(result_path):
        say(f"pipeline: {run} is already complete")
        return storage.read_json(result_path)

    raw = config.pipeline.raw or _fetch(config.pipeline.source, config)
    plm_path = _fetch(config.pipeline.fetch_plm, config) if config.pipeline.fetch_plm else config.plm.path
    data, pretrained = storage.join(run, "data"), storage.join(run, "pretrain")
    config = replaced(config, {"plm.path": plm_path, "data.path": data})
    tokenizer = load_tokenizer(plm_path)
    variants = {
        f"{config.ctr.backbone} from scratch": ("scratch", {"with_plm": False, "init": None}),
        "ClickPrompt without PLM": ("without-plm", {"with_plm": False, "init": pretrained}),
        "ClickPrompt with PLM": ("with-plm", {"with_plm": True, "init": pretrained}),
    }
    with connect(config.runtime):
        dataset = prepare(
            config.pipeline.source,
            raw,
            data,
            split_by=config.pipeline.split,
            seed=config.seed,
            template=config.pipeline.template,
        )
        tokenize(dataset, tokenizer)
        run_training(config, "pretrain", pretrained)
        trained = []
        for name, (folder, changes) in variants.items():
            say(f"{name}: {storage.join(run, folder)}")
            settings = replaced(config, {f"finetune.{key}": value for key, value in changes.items()})
            trained.append(run_training(settings, "finetune", storage.join(run, folder)))
        scores = _scores([result["run"] for result in trained], config)
    runs = [result["run"] for result in trained]
    report = make_report(
        [*runs, pretrained],
        storage.join(run, "report.html"),
        models=dict(zip(runs, variants, strict=True)),
        caveat=config.pipeline.notice,
    )
    result = {
        "rows": [
            {**line, "ms_per_batch_128": score["ms_per_batch"]}
            for line, score in zip(report["outcomes"], scores, strict=True)
        ],
        "conclusion": report["conclusion"],
        "run": run,
        "notice": config.pipeline.notice,
        "counts": Dataset.open(data).counts,
        "report": report["report"],
    }
    storage.write_json(result_path, result)
    return result


def _fetch(name: str, config: Config) -> str:
    result = fetch(name, storage.join(config.pipeline.downloads, name))
    say(f"{name}: {result.path} ({result.origin})")
    return result.path


def _scores(runs: list[str], config: Config) -> list[dict[str, Any]]:
    paths = [storage.join(run, "evaluation-test.json") for run in runs]
    if all(storage.exists(path) for path in paths):
        return [storage.read_json(path) for path in paths]
    return evaluate(runs, "test", config=config)
