"""Commands about machines: submit, job, doctor, plan, benchmark."""

import shlex
from typing import Annotated

import typer

from clickprompt.cli.complete import config_files
from clickprompt.cli.format import job_line
from clickprompt.cli.help import JobGroup
from clickprompt.cli.options import (
    AddressOption,
    ConfigOption,
    JobArgument,
    JsonOption,
    SetOption,
    app,
    finish,
    load_config,
)
from clickprompt.cli.renamed import check_spelling
from clickprompt.errors import InputError


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    command: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND", help="any command but those about jobs, such as pretrain or evaluate"
        ),
    ],
    address: AddressOption,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="follow the log and exit with the job's status")
    ] = True,
    job_id: Annotated[
        str | None, typer.Option("--id", help="job's name on the cluster; default: Ray chooses one")
    ] = None,
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="send this clickprompt and the versions installed here along; default: the image has them",
        ),
    ] = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="KEY=VALUE", help="variable of the job's environment; repeatable"),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY=VALUE", help="note for the dashboard; repeatable"),
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option(
            "--entrypoint-cpus",
            help="CPUs that the entry point reserves; default: none, because it only drives",
        ),
    ] = None,
    resources: Annotated[
        list[str] | None,
        typer.Option(
            "--entrypoint-resource",
            metavar="NAME=AMOUNT",
            help="resource that the entry point reserves, to choose its node; repeatable",
        ),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--entrypoint-label",
            metavar="NAME=VALUE",
            help="label of the node that the entry point runs on, such as clickprompt.io/group=data, so "
            "that it outlives the head; repeatable; default: the head",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a command on a cluster through the Ray Jobs API. All other options go to the command; a --config
    file travels along.
    """
    amounts = {
        name: _amount(name, amount) for name, amount in _pairs("--entrypoint-resource", resources).items()
    }
    known = {name: taken.params for name, taken in context.parent.command.commands.items()}  # pyright: ignore
    if command not in known or command in ("submit", "job"):
        raise InputError(
            f"submit {command}: no such command; known: "
            f"{', '.join(sorted(name for name in known if name not in ('submit', 'job')))}"
        )
    arguments = list(context.args)
    check_spelling([command, *arguments])
    if any("--set" in parameter.opts for parameter in known[command]):
        arguments += ["--set", "runtime.address=auto"]
    from clickprompt.runtime.cluster.submit import Submission, submit_job

    how = Submission(
        job_id,
        install,
        _pairs("--env", env),
        _pairs("--metadata", metadata),
        cpus,
        amounts,
        _pairs("--entrypoint-label", labels),
    )
    result = submit_job(command, address, arguments, how, wait=wait)
    finish(as_json, result, f"{result['status'].lower()}: job {result['job_id']} on {address}")
    if result["exit_code"]:
        raise typer.Exit(result["exit_code"])


job_app = typer.Typer(cls=JobGroup, no_args_is_help=True, help="List, inspect and stop jobs on a cluster.")
app.add_typer(job_app, name="job")


@job_app.command("list")
def list_(address: AddressOption, as_json: JsonOption = False) -> None:
    """List all submitted jobs, newest first."""
    from clickprompt.runtime.cluster.submit import list_jobs

    jobs = list_jobs(address)
    finish(
        as_json,
        {"jobs": jobs},
        "\n".join([*(job_line(job) for job in jobs), f"{len(jobs)} jobs on {address}"]),
    )


@job_app.command()
def status(job_id: JobArgument, address: AddressOption, as_json: JsonOption = False) -> None:
    """Show the state of a job."""
    from clickprompt.runtime.cluster.submit import job_status

    found = job_status(job_id, address)
    finish(as_json, found, f"{job_line(found)}\n{found['entrypoint']}")


@job_app.command()
def logs(
    job_id: JobArgument,
    address: AddressOption,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="follow the log until the job ends, on stderr; exit with its status"),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what a job has printed."""
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
    """Ask a job to stop and wait until it has. A training run writes a checkpoint first; submitting it again
    continues from there.
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
def doctor(config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Report versions, CPUs, GPUs, memory, storage and credentials: what will and won't run here."""
    settings = load_config(config, overrides)
    from clickprompt.runtime.cluster.doctor import examine

    findings = examine(settings)
    lines = [f"{'ok ' if item['ok'] else 'NO '} {item['what']:<12} {item['found']}" for item in findings]
    failed = [item["what"] for item in findings if not item["ok"]]
    lines.append("everything needed is here" if not failed else f"won't run: {', '.join(failed)}")
    finish(as_json, {"ok": not failed, "findings": findings}, "\n".join(lines))
    if failed:
        raise typer.Exit(1)


@app.command()
def plan(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG", help="YAML file of a training run, or a preset", autocompletion=config_files
        ),
    ],
    stage: Annotated[
        str | None, typer.Option(help="pretrain or finetune; default: pretrain if a PLM is configured")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="training rows, instead of the dataset's")] = None,
    fields: Annotated[int | None, typer.Option(help="fields, instead of the dataset's")] = None,
    features: Annotated[int | None, typer.Option(help="feature values, instead of the dataset's")] = None,
    tokens: Annotated[
        int | None, typer.Option(help="tokens of a long text, instead of the dataset's")
    ] = None,
    step_seconds: Annotated[
        float | None, typer.Option(help="seconds per step, to estimate the hours")
    ] = None,
    measured: Annotated[
        str | None, typer.Option(metavar="RUN", help="run of the same stage whose step time is used")
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate a training run before there is a cluster, a dataset or a weight: parameters, memory, steps,
    and hours.
    """
    settings = load_config(config, overrides)
    if stage not in (None, "pretrain", "finetune"):
        raise InputError(f"--stage {stage}: give pretrain or finetune")
    from clickprompt.runtime.cluster.sizing import plan_table, size_training

    found = size_training(
        settings,
        stage or ("pretrain" if settings.plm.path else "finetune"),
        rows=rows,
        fields=fields,
        features=features,
        tokens=tokens,
        step_seconds=step_seconds,
        measured=measured,
    )
    finish(as_json, found, plan_table(found))


@app.command()
def benchmark(
    name: Annotated[
        str,
        typer.Argument(
            help="what to measure: auc, ctr-step, ctr-stream, evaluate, faults, gpu-step, ingest, "
            "lora-step, memory, overhead, pamlm-step, scaling, serve, shuffle, step-options, tokens"
        ),
    ],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a claim about speed against the obvious way to do the same, on this machine. Fetches what it
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
