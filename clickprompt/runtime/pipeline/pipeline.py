"""Run the whole job by one configuration: fetch, prepare, pretrain, finetune (three ways), evaluate, report.

Every stage is its own run below `<run>/` and is skipped when it is complete, so the same command continues
after any interruption.
"""

import contextlib
import time
from typing import Any

from clickprompt.config import Config, RuntimeConfig, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.sources.check import check_source
from clickprompt.data.sources.fetch import DOWNLOADS, fetch
from clickprompt.data.sources.registry import get_source, is_schema, require_source
from clickprompt.data.text.template import load_tokenizer
from clickprompt.errors import ConfigError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.models.backbones import get_backbone
from clickprompt.report.make import make_report
from clickprompt.runtime.cluster.surroundings import check_temporary
from clickprompt.runtime.in_process import in_process, say_why_ray, trains_alone
from clickprompt.runtime.pipeline.budget import SIZES, of_finetunings, sized
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.tokenize import tokenize
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.train.preflight import check_batches, claim
from clickprompt.runtime.train.train import run_training

__all__ = ["run_pipeline"]


def run_pipeline(config: Config, run: str) -> dict[str, Any]:
    """Run all stages that aren't complete; write `<run>/result.json` and return its content.

    That is {"rows": one per model of the final table (report/opening.py), "best": the folder of the model
    that validation prefers, "click_rate_only", "conclusion", "run", "notice", "counts", "report"}. Raises
    InputError, before anything starts, if the configuration can't work.
    """
    began = time.monotonic()
    run = storage.native(run)
    config = _checked(config)
    # Other minutes may be given, as `sized` asks for, until the stages have their steps
    planned = any(storage.exists(storage.join(run, name)) for name in (SIZES, "pretrain/config.yaml"))
    claim(run, config, free=() if planned else ("pipeline.minutes",))
    result_path = storage.join(run, "result.json")
    if storage.exists(result_path):
        say(f"pipeline: {run} is already complete")
        return storage.read_json(result_path)

    source = config.pipeline.source
    raw = config.pipeline.raw or (None if is_schema(source) else _fetch(source, config))
    if is_schema(source):
        for warning in check_source(get_source(source, None), split_by=config.pipeline.split)["warnings"]:
            say(f"{source}: {warning}")
    data, pretrained = storage.join(run, "data"), storage.join(run, "pretrain")
    config = replaced(config, {"data.path": data})
    if config.pretrain.with_plm and config.pipeline.fetch_plm and not config.plm.path:
        config = replaced(config, {"plm.path": _fetch(config.pipeline.fetch_plm, config)})
    variants = _variants(config, pretrained)
    with contextlib.ExitStack() as connected:
        connected.enter_context(_ray_of_all_stages(config.runtime))
        dataset = prepare(
            source,
            raw,
            data,
            split_by=config.pipeline.split,
            seed=config.seed,
            template=config.pipeline.template,
            runtime=config.runtime,
        )
        if config.pretrain.with_plm:
            tokenize(dataset, load_tokenizer(config.plm.path), config.runtime)
        stages = sized(config, variants, run, began)
        run_training(stages.pop("pretrain"), "pretrain", pretrained)
        if all(trains_alone(settings.runtime) for settings in stages.values()):
            connected.close()
        trained = {}
        for name, settings in stages.items():
            folder = variants[name][0]
            say(f"{name}: {storage.join(run, folder)}")
            trained[name] = run_training(settings, "finetune", storage.join(run, folder))
        runs = [result["run"] for result in trained.values()]
        scores = _scores(runs, config)
    report = make_report(
        [*runs, pretrained],
        storage.join(run, "report.html"),
        models=dict(zip(runs, trained, strict=True)),
        caveat=config.pipeline.notice,
    )
    result = {
        "rows": [
            {**line, "ms_per_batch_128": score["ms_per_batch"]}
            for line, score in zip(report["outcomes"], scores, strict=True)
        ],
        "best": variants[max(trained, key=lambda name: trained[name]["best_auc"])][0],
        "click_rate_only": report["click_rate_only"],
        "conclusion": report["conclusion"],
        "run": run,
        "notice": config.pipeline.notice,
        "counts": Dataset.open(data).counts,
        "report": report["report"],
    }
    storage.write_json(result_path, result)
    return result


def _checked(config: Config) -> Config:
    """Return the configuration with the address of a schema made whole. Raises InputError for what can't
    work.
    """
    require_source(config.pipeline.source)
    get_backbone(config.ctr.backbone)
    if config.baseline != "none":
        raise ConfigError(
            f"baseline={config.baseline}: the pipeline compares ClickPrompt with its own CTR model; run the "
            "baseline by clickprompt pretrain, finetune and evaluate, or leave it out"
        )
    if config.ctr.text_embeddings != "none":
        raise ConfigError(
            f"ctr.text_embeddings={config.ctr.text_embeddings}: the pipeline pretrains, and its finetunings "
            "differ in nothing else; run clickprompt finetune and evaluate, or leave it out"
        )
    if config.pretrain.with_plm and not config.prompt.num_prompts:
        raise ConfigError(
            "prompt.num_prompts=0: the pipeline pretrains a CTR tower, which the PLM reaches through "
            "prompts only; use at least 1, or pretrain.with_plm=false"
        )
    if config.pretrain.with_plm and not (config.plm.path or config.pipeline.fetch_plm):
        raise ConfigError(
            "plm.path is not set; give a PLM's folder or hub name, pipeline.fetch_plm=minilm-l6 to fetch a "
            "small one, or pretrain.with_plm=false"
        )
    if not in_process(config.runtime):
        from clickprompt.runtime.cluster.connect import check_cpus  # imports ray, which takes seconds

        check_cpus(config.runtime)
        check_temporary(config.runtime)
    check_batches(config.pretrain, config.runtime)
    check_batches(config.finetune, of_finetunings(config).runtime)
    source = config.pipeline.source
    if not is_schema(source):
        if not config.pipeline.raw and source not in DOWNLOADS:
            raise ConfigError(
                f"pipeline.raw is not set, and {source} can't be fetched; give the folder with its raw files"
            )
        return config
    get_source(source, config.pipeline.raw)  # raises for a schema that can't be read, or one with `raw`
    return replaced(config, {"pipeline.source": storage.native(source)})


def _ray_of_all_stages(runtime: RuntimeConfig) -> contextlib.AbstractContextManager[None]:
    """Return a connection to one Ray for all stages, or none where the training needs no Ray."""
    if in_process(runtime):
        return contextlib.nullcontext()
    say_why_ray(runtime)
    from clickprompt.runtime.cluster.connect import connect  # imports ray, which takes seconds

    return connect(runtime)


def _variants(config: Config, pretrained: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the models of the table: name → (folder below the run, changes to `finetune`)."""
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        f"{config.ctr.backbone} from scratch": ("scratch", {"with_plm": False, "init": None}),
        "ClickPrompt without PLM": ("without-plm", {"with_plm": False, "init": pretrained}),
    }
    if config.pretrain.with_plm:
        variants["ClickPrompt with PLM"] = ("with-plm", {"with_plm": True, "init": pretrained})
    return variants


def _fetch(name: str, config: Config) -> str:
    result = fetch(name, storage.join(config.pipeline.downloads, name))
    say(f"{name}: {result.path} ({result.origin})")
    return result.path


def _scores(runs: list[str], config: Config) -> list[dict[str, Any]]:
    paths = [storage.join(run, "evaluation-test.json") for run in runs]
    if all(storage.exists(path) for path in paths):
        return [storage.read_json(path) for path in paths]
    return evaluate(runs, "test", config=config)
