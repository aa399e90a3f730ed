"""The `clickprompt` command: every command parses, makes one call, and says where its result is.

Results go to stdout (one JSON object with --json), progress to stderr; exit status 0, 1 (the run failed) or 2 (bad input, one line).
Imports of torch and ray wait until a command needs them, so that --help and mistakes answer at once.
"""

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from clickprompt.config import Config, load_config, preset_names, require_split
from clickprompt.errors import ClickPromptError, InputError
from clickprompt.io.progress import say
from clickprompt.tables import (
    attention_table,
    check_table,
    comparison,
    job_line,
    recovery_table,
    seeds_table,
    slices_table,
    split_line,
    sweep_table,
)

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="A trainer for ClickPrompt on Ray.")

ConfigOption = Annotated[str | None, typer.Option("--config", help="a YAML file, or a preset: " + ", ".join(preset_names()))]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override one config key; repeatable")]
RunOption = Annotated[str, typer.Option("--run", help="folder or URI of the run; give it again to continue")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
SplitOption = Annotated[str, typer.Option(help="whose rows: train, valid or test", callback=lambda split: require_split(split))]
AddressOption = Annotated[str, typer.Option("--address", help="the cluster's job server, such as http://HEAD:8265")]
JobArgument = Annotated[str, typer.Argument(help="the id that `clickprompt submit` printed")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status."""
    try:
        status = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except ClickPromptError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        usage = getattr(error, "exit_code", None)
        if usage is None or not hasattr(error, "format_message"):
            raise
        say(f"error: {error.format_message()}")  # pyright: ignore[reportAttributeAccessIssue] - click's UsageError
        sys.exit(usage)
    sys.exit(status if isinstance(status, int) else 0)


@app.command()
def fetch(name: str, to: Annotated[str, typer.Option("--to", help="folder to put it in")], as_json: JsonOption = False) -> None:
    """Fetch public data or PLM weights, checksum verified."""
    from clickprompt.data.sources.fetch import fetch as run_fetch

    result = run_fetch(name, to)
    _finish(as_json, {"name": name, "path": result.path, "origin": result.origin}, f"{name}: {result.path} ({result.origin})")


@app.command()
def init(
    files: Annotated[list[str], typer.Argument(help="files, folders and patterns: the log's, and those of items and users")],
    out: Annotated[str | None, typer.Option("--out", help="file or URI of the schema; default: it is printed")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draft the YAML schema of your own log from its files: fields, label, time, joins, each with a comment to check it by."""
    from clickprompt.data.sources.draft import draft_schema
    from clickprompt.io import storage

    if out and storage.exists(out):
        raise InputError(f"--out {out}: it exists; delete it first, or give another name")
    draft = draft_schema(files, storage.native(out).rpartition("/")[0] if out else os.getcwd())
    for note in draft.notes:
        say(note)
    if out:
        storage.write_bytes(out, draft.text.encode())
    result = {"schema": draft.text, "complete": draft.complete, "notes": draft.notes, "path": out}
    _finish(as_json, result, f"{out}: look at it with clickprompt prepare {out} --check" if out else draft.text.rstrip("\n"))


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="bookcrossing, movielens-1m, …, or a YAML file that describes your own log")],
    out: Annotated[str | None, typer.Option("--out", help="folder or URI of the prepared dataset")] = None,
    raw: Annotated[
        str | None, typer.Option("--raw", help="folder with the source's raw files; a YAML file says itself where its log is")
    ] = None,
    split: Annotated[str | None, typer.Option(help="8:1:1 by time (the paper's), or at random by a seeded hash: time, hash")] = None,
    sample_users: Annotated[float | None, typer.Option(help="keep the rows of this share of the users only, such as 0.1")] = None,
    append: Annotated[
        bool, typer.Option("--append", help="add the rows of new raw files to the dataset at --out, as its next version")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="read a sample and say what is in it; writes nothing")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Raw log → Parquet shards, vocabulary and manifest."""
    settings = load_config(config, overrides or [])
    if check:
        from clickprompt.data.sources import get_source
        from clickprompt.data.sources.check import check_source

        found = check_source(get_source(source, raw), split_by=split)
        _finish(as_json, found, f"{check_table(found)}\nnothing was written")
        return
    if not out:
        raise InputError("--out is missing: give the folder or URI of the prepared dataset, or --check to look at a sample only")
    from clickprompt.data.prepared.dataset import SPLITS

    if append:
        if sample_users is not None:
            raise InputError("--append goes with all users; leave --sample-users out, or prepare in a new place")
        from clickprompt.runtime.prepare.append import append as run_append

        seed = settings.seed if "seed" in settings.model_fields_set else None
        dataset = run_append(source, raw, out, split_by=split, seed=seed, runtime=settings.runtime)
    else:
        from clickprompt.runtime.prepare.prepare import prepare as run_prepare

        dataset = run_prepare(source, raw, out, split_by=split, seed=settings.seed, sample_users=sample_users, runtime=settings.runtime)
    counts = {split: dataset.counts[split] for split in SPLITS}
    fields, features = len(dataset.field_names), dataset.num_features
    result = {"path": out, "version": dataset.version, "counts": counts, "fields": fields, "features": features}
    result["fingerprint"] = dataset.fingerprint
    rows = f"{' / '.join(f'{count:,}' for count in counts.values())} rows ({' / '.join(counts)})"
    _finish(as_json, result, f"{rows}, {fields} fields, {features:,} features: {out}, version {dataset.version}")


def _whole_number(value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise typer.BadParameter(f"{value} is not a whole number; give digits, such as 1000000") from error


@app.command()
def synth(
    name: Annotated[str, typer.Argument(help="whose shape it has: goodreads")],
    rows: Annotated[int, typer.Option("--rows", parser=_whole_number, metavar="N", help="how many interactions, from 1,000 on")],
    out: Annotated[str, typer.Option("--out", help="folder or URI of the log")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """A synthetic log with a planted click model, whose best possible AUC is known, and the schema to prepare it by."""
    settings = load_config(config, overrides or [])
    from clickprompt.runtime.prepare.synth import synth as run_synth

    facts = run_synth(name, out, rows, seed=settings.seed, runtime=settings.runtime)
    features, rate = facts["num_features"], facts["positive_rate"]
    figures = f"{len(facts['field_sizes'])} fields, {features:,} features, {rate:.1%} positive, Bayes AUC {facts['bayes_auc']:.4f}"
    _finish(as_json, {"path": out, **facts}, f"{rows:,} rows, {figures}: {out}/schema.yaml")


@app.command()
def tokenize(
    dataset: str,
    plm: Annotated[str, typer.Option("--plm", help="hub name or folder of the tokenizer")],
    version: Annotated[int | None, typer.Option("--version", help="of the dataset; default: the newest")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build a prepared dataset's token table for one PLM's tokenizer."""
    settings = load_config(config, overrides or [])
    from clickprompt.data.prepared.dataset import Dataset
    from clickprompt.data.text.template import load_tokenizer
    from clickprompt.runtime.prepare.tokenize import tokenize as run_tokenize

    table = run_tokenize(Dataset.open(dataset, version), load_tokenizer(plm), settings.runtime)
    facts = {"path": table.uri, "dataset": dataset, "fingerprint": table.meta["fingerprint"], "max_length": table.max_length}
    figures = f"{len(table.offsets) - 1:,} values, {len(table.tokens):,} tokens, rows of up to {table.max_length}"
    _finish(as_json, facts, f"token table: {table.uri} ({figures})")


@app.command()
def pretrain(run: RunOption, config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """PA-MLM: train the CTR model and the PLM together (§3.5.1)."""
    _train(load_config(config, overrides or []), "pretrain", run, as_json)


@app.command()
def finetune(run: RunOption, config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Click prediction with the PLM (Eq. 9) or without it (Eq. 10, --set finetune.with_plm=false)."""
    _train(load_config(config, overrides or []), "finetune", run, as_json)


@app.command()
def evaluate(
    run: RunOption,
    split: SplitOption = "test",
    data: Annotated[str | None, typer.Option(help="the prepared dataset, if it has moved")] = None,
    against: Annotated[str | None, typer.Option(help="a run of the same kind, already evaluated, to compare this one with")] = None,
    attention: Annotated[
        int | None, typer.Option(help="instead: what the PLM reads of the prompts where a field is masked, mean of so many rows")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a split. Finetuned: predictions, AUC, log loss, milliseconds per batch. Pretrained: masked values recovered, per field."""
    settings = load_config(config, overrides or [])
    from clickprompt.runtime.score.evaluate import evaluate as run_evaluate
    from clickprompt.runtime.score.evaluate import evaluate_attention, evaluate_recovery, is_pretrained

    if attention is not None:
        result = evaluate_attention(run, split, attention, config=settings, data=data)
        _finish(as_json, result, f"{attention_table(result)}\n{split}: {result['attention']}")
        return
    if is_pretrained(run):
        result = evaluate_recovery(run, split, config=settings, data=data, against=against)
        _finish(as_json, result, f"{recovery_table(result)}\n{split}: {result['recovery']}")
        return
    if against and is_pretrained(against):
        raise InputError(f"--against {against}: a pretraining run, and {run} is finetuned; give one that predicts clicks, too")
    [result] = run_evaluate([run], split, config=settings, data=data, against=against)
    compared = f"{comparison(result)}\n" if against else ""
    _finish(as_json, result, f"{slices_table(result)}\n{compared}{split_line(result)}")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="finetuned runs of one model, a seed each, already evaluated")],
    against: Annotated[list[str], typer.Option("--against", help="a run of the other model; repeatable, the same seeds")],
    split: SplitOption = "test",
    as_json: JsonOption = False,
) -> None:
    """Several seeds of two models: means, Rel.Impr, and whether the difference is more than the seeds make (paired t-test)."""
    from clickprompt.evaluation.seeds import compare_runs

    result = compare_runs(runs, against, split)
    _finish(as_json, result, seeds_table(result))


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="folders or URIs of runs: pretrained, finetuned, sweeps")],
    out: Annotated[str | None, typer.Option("--out", help="file or URI to write; default: report.html in the first run's folder")] = None,
    base: Annotated[str | None, typer.Option("--base", help="the run that the others are compared with; default: the first")] = None,
    split: SplitOption = "test",
    data: Annotated[str | None, typer.Option(help="the prepared dataset, if it has moved")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="print the tables in Markdown, too")] = False,
    as_json: JsonOption = False,
) -> None:
    """One HTML file about runs: curves, calibration, long tail, attention, sweep, comparison; needs no network to be read."""
    from clickprompt.report.make import make_report

    result = make_report(runs, out, base=base, split=split, data=data)
    tables = result.pop("markdown")
    if as_markdown:
        result["markdown"] = tables
        say(f"report: {result['report']}")
    _finish(as_json, result, tables if as_markdown else f"report: {result['report']}")


@app.command()
def predict(
    run: RunOption,
    rows: Annotated[list[str], typer.Option("--rows", help="Parquet, CSV or JSON-lines files or patterns, local or URIs; repeatable")],
    to: Annotated[str, typer.Option("--to", help="folder or URI of the predictions")],
    keep: Annotated[list[str] | None, typer.Option("--keep", help="a column to carry along; repeatable")] = None,
    data: Annotated[str | None, typer.Option(help="the prepared dataset, if it has moved")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score new raw rows with a finetuned run. A value that the dataset hasn't is unknown, but a model with a PLM reads its text."""
    settings = load_config(config, overrides or [])
    from clickprompt.runtime.score.predict import predict as run_predict

    result = run_predict(run, rows, to, keep=keep or [], runtime=settings.runtime, data=data)
    unknown = ", ".join(f"{name} {share:.1%}" for name, share in result["unknown"].items() if share) or "none"
    figures = f"{result['rows']:,} rows of {result['files']} files, {result['rows_per_second']:,.0f} rows/s"
    _finish(as_json, result, f"missing or not seen before: {unknown}\n{figures}: {to}")


@app.command()
def export(
    run: RunOption,
    to: Annotated[str, typer.Option("--to", help="safetensors, or the CTR model alone as a graph: onnx, torch-export")] = "safetensors",
    out: Annotated[str | None, typer.Option("--out", help="folder or URI to write")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="onnx: the graph takes the log's columns instead of ids")] = False,
    data: Annotated[str | None, typer.Option(help="the prepared dataset, if it has moved")] = None,
    as_json: JsonOption = False,
) -> None:
    """Everything a server needs of a finetuned run: model, configuration, tokenizer, vocabulary. No pickles."""
    from clickprompt.export.serving_folder import FORMATS, export_for_serving

    if not out:
        meant = "" if to in FORMATS else f", such as --out {to} (--to is the format: {', '.join(FORMATS)})"
        raise InputError(f"--out is missing: give the folder or URI to write{meant}")
    result = export_for_serving(run, out, to, data, raw=raw)
    lines = [f"{result['objective']}, {result['parameters']:,} parameters, {to}: {out}"]
    if times := result.get("ms_per_batch"):
        rows, difference = f"{result['checked_rows']:,} {'drawn' if raw else 'test'} rows", result["largest_difference"]
        lines.insert(0, f"logits of {rows}: at most {difference:.1e} from the trained model's, in batches of several sizes")
        figures = ", ".join(f"{name} {figure['median']:.3f} (p99 {figure['p99']:.3f})" for name, figure in times.items())
        lines.insert(1, f"ms per batch of {result['batch']}, one thread, median: {figures}")
    _finish(as_json, result, "\n".join(lines))


@app.command()
def serve(
    run: Annotated[str, typer.Option("--run", help="a finetuned run, or the folder of an export; a new export there takes over")],
    host: Annotated[str, typer.Option(help="address to listen on; any but loopback needs a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 8000,
    replicas: Annotated[int, typer.Option(help="processes with the model")] = 2,
    watch: Annotated[float, typer.Option(metavar="SECONDS", help="between two looks for a new export")] = 5.0,
    token_file: Annotated[
        str | None, typer.Option("--token-file", help="file with the token that requests must have; or CLICKPROMPT_SERVE_TOKEN")
    ] = None,
    data: Annotated[str | None, typer.Option(help="the prepared dataset, if it has moved")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer POST /predict with logits and probabilities of raw rows, until Ctrl-C or SIGTERM."""
    settings = load_config(config, overrides or [])
    if missing := [name for name in ("fastapi", "starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise InputError(f"serve needs {', '.join(missing)}, which isn't installed; run pip install 'clickprompt[serve]'")
    from clickprompt.runtime.score.serve import TOKEN, ServeOptions, serve_run

    token = "required" if token_file or os.environ.get(TOKEN) else "none"
    args = {"run": run, "data": data, "replicas": replicas, "gpus": settings.runtime.evaluation_gpus, "watch_s": watch}
    options = ServeOptions.of({**args, "token": token, "token_file": token_file})

    def listening(url: str) -> None:
        _finish(as_json, {"url": url, "run": run, "replicas": replicas, "token": token == "required"}, f"{run}: listening on {url}")  # noqa: S105
        sys.stdout.flush()

    serve_run(options, host=host, port=port, runtime=settings.runtime, listening=listening)


@app.command()
def tune(
    run: RunOption,
    yes: Annotated[bool, typer.Option("--yes", help="also where the space has more points than tune.max_points")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """A staged search over any config keys (tune.space): each pretraining once, the finetunings on top of it."""
    settings = load_config(config, overrides or [])
    from clickprompt.runtime.tune.tune import run_tune

    result = run_tune(settings, run, yes=yes)
    best, counts = result["best"], result["trials"]
    if counts["failed"]:
        say(f"{counts['failed']} of {sum(counts.values())} trials failed, see {run}/trials.parquet; the same command tries them again")
    trials = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    text = f"{sweep_table(result)}\n{len(result['pretrains'])} pretrainings; finetunings: {trials}"
    _finish(as_json, result, f"{text}\nbest: point {best['point']}, valid AUC {best['valid_auc']:.4f}: {best['config']}")


@app.command()
def pipeline(run: RunOption, config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Fetch, prepare, pretrain, finetune three ways, evaluate, report: the whole job and its table."""
    settings = load_config(config, overrides or [])
    from clickprompt.runtime.pipeline import run_pipeline

    result = run_pipeline(settings, run)
    lines = [f"{'model':<26}{'steps':>7}{'test AUC':>10}{'log loss':>10}{'Rel.Impr':>10}{'ms/batch of 128':>17}"]
    for row in result["rows"]:
        gain, auc = (row["relative_improvement"], row["test_auc"])
        improvement, auc = "–" if gain is None else f"{gain:+.2%}", "undefined" if auc is None else f"{auc:.4f}"
        lines.append(
            f"{row['model']:<26}{row['steps']:>7}{auc:>10}{row['test_log_loss']:>10.4f}{improvement:>10}{row['ms_per_batch_128']:>17.2f}"
        )
    if result["notice"]:
        lines.append(result["notice"])
    lines += [f"{row['model']}: {row['run']}" for row in result["rows"]]
    _finish(as_json, result, "\n".join([*lines, f"everything: {run}; report: {result['report']}"]))


@app.command()
def benchmark(
    name: Annotated[
        str,
        typer.Argument(
            help="what to measure: auc, ctr-step, ctr-stream, evaluate, faults, ingest, memory, overhead, pamlm-step, scaling, serve, "
            "shuffle, tokens"
        ),
    ],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a claim about speed against the obvious way to do the same, here and now; fetches what it needs."""
    settings = load_config(config, overrides or [])
    from clickprompt.benchmark import run_benchmark

    options = [*(["--config", config] if config else []), *(part for override in overrides or [] for part in ("--set", override))]
    result = run_benchmark(name, settings, shlex.join(["clickprompt", "benchmark", name, *options, *(["--json"] if as_json else [])]))
    lines = [
        f"{key:<32}{figure['median']:>9.3f}  {figure['unit']}, {figure['min']:.3f} to {figure['max']:.3f}"
        for key, figure in result["figures"].items()
    ]
    _finish(as_json, result, "\n".join([*lines, *result["notes"]]))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    job: Annotated[
        str,
        typer.Argument(
            help="of jobs/: benchmark, compare, evaluate, export, finetune, pipeline, predict, prepare, pretrain, report, synth, "
            "tokenize, tune"
        ),
    ],
    address: AddressOption,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="follow the log; the exit status is the job's")] = True,
    job_id: Annotated[str | None, typer.Option("--id", help="the job's name on the cluster; default: Ray makes one up")] = None,
    install: Annotated[
        bool,
        typer.Option("--install", help="this checkout and the versions installed here travel along; default: the image has them"),
    ] = False,
    env: Annotated[list[str] | None, typer.Option("--env", metavar="KEY=VALUE", help="of the job's environment; repeatable")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="for the dashboard; repeatable")] = None,
    cpus: Annotated[
        float | None, typer.Option("--entrypoint-cpus", help="that the entry point reserves; default: none, it only drives")
    ] = None,
    resources: Annotated[
        list[str] | None, typer.Option("--entrypoint-resource", metavar="NAME=AMOUNT", help="where it may run; repeatable")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a command on a cluster by the Ray Jobs API. All else that is given is the command's; a --config file travels along."""
    amounts = {name: _amount(name, amount) for name, amount in _pairs("--entrypoint-resource", resources).items()}
    from clickprompt.runtime.cluster.submit import Submission, submit_job

    how = Submission(job_id, install, _pairs("--env", env), _pairs("--metadata", metadata), cpus, amounts)
    result = submit_job(job, address, context.args, how, wait=wait)
    _finish(as_json, result, f"{result['status'].lower()}: job {result['job_id']} on {address}")
    if result["exit_code"]:
        raise typer.Exit(result["exit_code"])


job_app = typer.Typer(no_args_is_help=True, help="Jobs on a cluster: list, status, logs, stop.")
app.add_typer(job_app, name="job")


@job_app.command("list")
def list_(address: AddressOption, as_json: JsonOption = False) -> None:
    """All submitted jobs, newest first."""
    from clickprompt.runtime.cluster.submit import list_jobs

    jobs = list_jobs(address)
    _finish(as_json, {"jobs": jobs}, "\n".join([*(job_line(job) for job in jobs), f"{len(jobs)} jobs on {address}"]))


@job_app.command()
def status(job_id: JobArgument, address: AddressOption, as_json: JsonOption = False) -> None:
    """How a job is doing."""
    from clickprompt.runtime.cluster.submit import job_status

    found = job_status(job_id, address)
    _finish(as_json, found, f"{job_line(found)}\n{found['entrypoint']}")


@job_app.command()
def logs(
    job_id: JobArgument,
    address: AddressOption,
    follow: Annotated[bool, typer.Option("--follow", help="until it ends, on stderr; the exit status is the job's")] = False,
    as_json: JsonOption = False,
) -> None:
    """What a job has printed."""
    from clickprompt.runtime.cluster.submit import follow_job, job_logs

    if not follow:
        text = job_logs(job_id, address)
        _finish(as_json, {"job_id": job_id, "logs": text}, text)
        return
    result = follow_job(job_id, address)
    _finish(as_json, result, f"{result['status'].lower()}: job {job_id} on {address}")
    if result["exit_code"]:
        raise typer.Exit(result["exit_code"])


@job_app.command()
def stop(job_id: JobArgument, address: AddressOption, as_json: JsonOption = False) -> None:
    """Ask a job to stop, and wait until it has: a training writes a checkpoint first, and submitting it again continues there."""
    from clickprompt.runtime.cluster.submit import stop_job

    result = stop_job(job_id, address)
    _finish(as_json, result, f"{result['status'].lower()}: job {job_id} on {address}")


@app.command()
def doctor(
    config: ConfigOption = None,
    overrides: SetOption = None,
    plan: Annotated[
        str | None, typer.Option("--plan", metavar="CONFIG", help="instead: what a training of this YAML file or preset will need")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="with --plan: pretrain or finetune; default: pretrain where there is a PLM")] = None,
    rows: Annotated[int | None, typer.Option(help="with --plan: training rows, in place of the dataset's")] = None,
    fields: Annotated[int | None, typer.Option(help="with --plan: fields, likewise")] = None,
    features: Annotated[int | None, typer.Option(help="with --plan: feature values, likewise")] = None,
    tokens: Annotated[int | None, typer.Option(help="with --plan: tokens of a long text, likewise")] = None,
    step_seconds: Annotated[float | None, typer.Option(help="with --plan: seconds of a step, for the hours")] = None,
    measured: Annotated[str | None, typer.Option(metavar="RUN", help="with --plan: a run of the same stage to take them from")] = None,
    as_json: JsonOption = False,
) -> None:
    """Versions, CPUs, GPUs, memory, storage, auth: what will and won't run here. With --plan: parameters, memory, steps of a training."""
    about_plan = {
        "rows": rows,
        "fields": fields,
        "features": features,
        "tokens": tokens,
        "step_seconds": step_seconds,
        "measured": measured,
    }
    if plan is not None:
        if config is not None:
            raise InputError(f"--plan {plan} --config {config}: two configurations; give one")
        settings = load_config(plan, overrides or [])
        if stage not in (None, "pretrain", "finetune"):
            raise InputError(f"--stage {stage}: give pretrain or finetune")
        from clickprompt.runtime.cluster.sizing import make_plan, plan_table

        found = make_plan(settings, stage or ("pretrain" if settings.plm.path else "finetune"), **about_plan)
        _finish(as_json, found, plan_table(found))
        return
    if stage or any(value is not None for value in about_plan.values()):
        raise InputError("--stage, --rows, --fields, --features, --tokens, --step-seconds and --measured go with --plan CONFIG")
    settings = load_config(config, overrides or [])
    from clickprompt.runtime.cluster.doctor import examine

    findings = examine(settings)
    lines = [f"{'ok ' if item['ok'] else 'NO '} {item['what']:<12} {item['found']}" for item in findings]
    failed = [item["what"] for item in findings if not item["ok"]]
    lines.append("everything needed is here" if not failed else f"won't run: {', '.join(failed)}")
    _finish(as_json, {"ok": not failed, "findings": findings}, "\n".join(lines))
    if failed:
        raise typer.Exit(1)


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in given or []:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise InputError(f"{option} {text}: expected NAME=VALUE")
        pairs[name] = value
    return pairs


def _amount(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--entrypoint-resource {name}={text}: the amount is not a number") from error


def _train(config: Config, stage: str, run: str, as_json: bool) -> None:
    from clickprompt.runtime.train.train import run_training

    result = run_training(config, stage, run)
    auc = f", best valid AUC {result['best_auc']:.4f} at step {result['best_step']}" if result.get("best_auc") is not None else ""
    loss = f", last loss {result['last_loss']:.4f}" if result.get("last_loss") is not None else ""
    _finish(as_json, result, f"{stage}: {result['step']} of {result['planned_steps']} steps{loss}{auc}: {result['export']}")


def _finish(as_json: bool, result: dict[str, Any], text: str) -> None:
    print(json.dumps(result) if as_json else text)
