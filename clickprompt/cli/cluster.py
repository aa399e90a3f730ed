"""Commands about machines: submit, job, doctor, benchmark."""

import shlex
from typing import Annotated

import typer

from clickprompt.cli.format import job_line
from clickprompt.cli.options import (
    AddressOption,
    ConfigOption,
    JobArgument,
    JsonOption,
    SetOption,
    app,
    finish,
)
from clickprompt.config import load_config
from clickprompt.errors import InputError


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    job: Annotated[
        str,
        typer.Argument(
            help="of jobs/: benchmark, compare, evaluate, export, finetune, pipeline, predict, prepare, "
            "pretrain, report, synth, "
            "tokenize, tune"
        ),
    ],
    address: AddressOption,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="follow the log; the exit status is the job's")
    ] = True,
    job_id: Annotated[
        str | None, typer.Option("--id", help="the job's name on the cluster; default: Ray makes one up")
    ] = None,
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="this checkout and the versions installed here travel along; default: the image has them",
        ),
    ] = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="KEY=VALUE", help="of the job's environment; repeatable"),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY=VALUE", help="for the dashboard; repeatable"),
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option(
            "--entrypoint-cpus", help="that the entry point reserves; default: none, it only drives"
        ),
    ] = None,
    resources: Annotated[
        list[str] | None,
        typer.Option("--entrypoint-resource", metavar="NAME=AMOUNT", help="where it may run; repeatable"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a command on a cluster by the Ray Jobs API. All else that is given is the command's; a --config
    file travels along.
    """
    amounts = {
        name: _amount(name, amount) for name, amount in _pairs("--entrypoint-resource", resources).items()
    }
    from clickprompt.runtime.cluster.submit import Submission, submit_job

    how = Submission(job_id, install, _pairs("--env", env), _pairs("--metadata", metadata), cpus, amounts)
    result = submit_job(job, address, context.args, how, wait=wait)
    finish(as_json, result, f"{result['status'].lower()}: job {result['job_id']} on {address}")
    if result["exit_code"]:
        raise typer.Exit(result["exit_code"])


job_app = typer.Typer(no_args_is_help=True, help="Jobs on a cluster: list, status, logs, stop.")
app.add_typer(job_app, name="job")


@job_app.command("list")
def list_(address: AddressOption, as_json: JsonOption = False) -> None:
    """All submitted jobs, newest first."""
    from clickprompt.runtime.cluster.submit import list_jobs

    jobs = list_jobs(address)
    finish(
        as_json,
        {"jobs": jobs},
        "\n".join([*(job_line(job) for job in jobs), f"{len(jobs)} jobs on {address}"]),
    )


@job_app.command()
def status(job_id: JobArgument, address: AddressOption, as_json: JsonOption = False) -> None:
    """How a job is doing."""
    from clickprompt.runtime.cluster.submit import job_status

    found = job_status(job_id, address)
    finish(as_json, found, f"{job_line(found)}\n{found['entrypoint']}")


@job_app.command()
def logs(
    job_id: JobArgument,
    address: AddressOption,
    follow: Annotated[
        bool, typer.Option("--follow", help="until it ends, on stderr; the exit status is the job's")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What a job has printed."""
    from clickprompt.runtime.cluster.submit import follow_job, job_logs

    if not follow:
        text = job_logs(job_id, address)
        finish(as_json, {"job_id": job_id, "logs": text}, text)
        return
    result = follow_job(job_id, address)
    finish(as_json, result, f"{result['status'].lower()}: job {job_id} on {address}")
    if result["exit_code"]:
        raise typer.Exit(result["exit_code"])


@job_app.command()
def stop(job_id: JobArgument, address: AddressOption, as_json: JsonOption = False) -> None:
    """Ask a job to stop, and wait until it has: a training writes a checkpoint first, and submitting it again
    continues there.
    """
    from clickprompt.runtime.cluster.submit import stop_job

    result = stop_job(job_id, address)
    finish(as_json, result, f"{result['status'].lower()}: job {job_id} on {address}")


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


@app.command()
def doctor(
    config: ConfigOption = None,
    overrides: SetOption = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan", metavar="CONFIG", help="instead: what a training of this YAML file or preset will need"
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="with --plan: pretrain or finetune; default: pretrain where there is a PLM"),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="with --plan: training rows, in place of the dataset's")
    ] = None,
    fields: Annotated[int | None, typer.Option(help="with --plan: fields, likewise")] = None,
    features: Annotated[int | None, typer.Option(help="with --plan: feature values, likewise")] = None,
    tokens: Annotated[int | None, typer.Option(help="with --plan: tokens of a long text, likewise")] = None,
    step_seconds: Annotated[
        float | None, typer.Option(help="with --plan: seconds of a step, for the hours")
    ] = None,
    measured: Annotated[
        str | None, typer.Option(metavar="RUN", help="with --plan: a run of the same stage to take them from")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Versions, CPUs, GPUs, memory, storage, auth: what will and won't run here. With --plan: parameters,
    memory, steps of a training.
    """
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
        from clickprompt.runtime.cluster.sizing import plan_table, size_training

        found = size_training(
            settings, stage or ("pretrain" if settings.plm.path else "finetune"), **about_plan
        )
        finish(as_json, found, plan_table(found))
        return
    if stage or any(value is not None for value in about_plan.values()):
        raise InputError(
            "--stage, --rows, --fields, --features, --tokens, --step-seconds and --measured go with --plan "
            "CONFIG"
        )
    settings = load_config(config, overrides or [])
    from clickprompt.runtime.cluster.doctor import examine

    findings = examine(settings)
    lines = [f"{'ok ' if item['ok'] else 'NO '} {item['what']:<12} {item['found']}" for item in findings]
    failed = [item["what"] for item in findings if not item["ok"]]
    lines.append("everything needed is here" if not failed else f"won't run: {', '.join(failed)}")
    finish(as_json, {"ok": not failed, "findings": findings}, "\n".join(lines))
    if failed:
        raise typer.Exit(1)


@app.command()
def benchmark(
    name: Annotated[
        str,
        typer.Argument(
            help="what to measure: auc, ctr-step, ctr-stream, evaluate, faults, ingest, memory, overhead, "
            "pamlm-step, scaling, serve, "
            "shuffle, tokens"
        ),
    ],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a claim about speed against the obvious way to do the same, here and now; fetches what it
    needs.
    """
    from clickprompt.benchmark import run_benchmark

    options = [
        *(["--config", config] if config else []),
        *(part for override in overrides or [] for part in ("--set", override)),
    ]
    command = shlex.join(["clickprompt", "benchmark", name, *options, *(["--json"] if as_json else [])])
    result = run_benchmark(name, config, overrides or [], command)
    lines = [
        f"{key:<32}{figure['median']:>9.3f}  {figure['unit']}, {figure['min']:.3f} to {figure['max']:.3f}"
        for key, figure in result["figures"].items()
    ]
    finish(as_json, result, "\n".join([*lines, *result["notes"]]))
