"""Commands that bring a model to a server: export, serve."""

import importlib.util
import os
import sys
from typing import Annotated

import typer

from clickprompt.cli.options import (
    ConfigOption,
    JsonOption,
    RunOption,
    SetOption,
    app,
    finish,
    load_run_config,
)
from clickprompt.errors import InputError


@app.command()
def export(
    run: RunOption,
    to: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="safetensors; the CTR model alone as a graph: onnx, torch-export; its vectors of users and "
            "items: embeddings; what plm.lora trained of the PLM, as peft's files: adapter",
        ),
    ] = "safetensors",
    out: Annotated[str | None, typer.Option("--out", help="folder or URI to write")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="with onnx: the graph takes the log's columns instead of ids")
    ] = False,
    texts: Annotated[
        bool,
        typer.Option("--texts", help="with embeddings: also the PLM's vectors of the values' texts"),
    ] = False,
    data: Annotated[str | None, typer.Option(help="prepared dataset, if it has moved")] = None,
    to_hub: Annotated[
        str | None,
        typer.Option("--push", metavar="REPO", help="push it to this repository of the Hugging Face Hub"),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="with --push: a new repository is public; default: private")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Export what a server needs from a finetuned run: model, configuration, tokenizer and vocabulary,
    without pickles; or its vectors of users and items.
    """
    from clickprompt.export.adapter import ADAPTER, export_adapter
    from clickprompt.export.embeddings import EMBEDDINGS, export_embeddings
    from clickprompt.export.hub import hub_token, push
    from clickprompt.export.serving_folder import export_for_serving

    if not out:
        raise InputError("--out is missing: give the folder or URI to write")
    if public and to_hub is None:
        raise InputError("--public: nothing is pushed; give --push REPO with it, or leave it out")
    token = ""
    if to_hub is not None:
        if to in (EMBEDDINGS, ADAPTER):
            raise InputError(f"--push goes with models, and --format {to} has no model card; leave it out")
        token = hub_token(to_hub)
    if texts and to != EMBEDDINGS:
        raise InputError(f"--texts goes with --format {EMBEDDINGS}, not {to}; leave it out")
    if to == EMBEDDINGS and not raw:
        result = export_embeddings(run, out, data, texts=texts)
        vectors = ", ".join(f"{result[of]['rows']:,} of {result[of]['field']}" for of in ("user", "item"))
        finish(as_json, result, f"vectors of {result['size']} numbers, {vectors}: {out}")
        return
    if to == ADAPTER and not raw:
        result = export_adapter(run, out)
        finish(
            as_json, result, f"adapters of {result['parameters']:,} parameters for {result['base']}: {out}"
        )
        return
    result = export_for_serving(run, out, to, data, raw=raw)
    lines = [f"{result['objective']}, {result['parameters']:,} parameters, {to}: {out}"]
    if times := result.get("ms_per_batch"):
        rows, difference = (
            f"{result['checked_rows']:,} {'drawn' if raw else 'test'} rows",
            result["largest_difference"],
        )
        lines.insert(
            0,
            f"logits of {rows}: at most {difference:.1e} from the trained model's, in batches of "
            "several sizes",
        )
        figures = ", ".join(
            f"{name} {figure['median']:.3f} (p99 {figure['p99']:.3f})" for name, figure in times.items()
        )
        lines.insert(1, f"ms per batch of {result['batch']}, one thread, median: {figures}")
    if to_hub is not None:
        result["hub"] = push(out, to_hub, token, public=public)
        lines.append(f"pushed: {result['hub']['url']}")
    finish(as_json, result, "\n".join(lines))


@app.command()
def serve(
    run: Annotated[
        str,
        typer.Option(
            "--run", help="finetuned run, or folder of an export; a new export in its place takes over"
        ),
    ],
    host: Annotated[
        str, typer.Option(help="address to listen on; any address but loopback needs a token")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 8000,
    replicas: Annotated[int, typer.Option(help="number of processes that hold the model")] = 2,
    watch: Annotated[
        float, typer.Option(metavar="SECONDS", help="seconds between two looks for a new export")
    ] = 5.0,
    token_file: Annotated[
        str | None,
        typer.Option(
            "--token-file",
            help="file with the token that requests must carry; default: CLICKPROMPT_SERVE_TOKEN",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="prepared dataset, if it has moved")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer POST /predict with logits and probabilities of raw rows, until Ctrl-C or SIGTERM."""
    settings = load_run_config(run, config, overrides)
    if missing := [
        name for name in ("fastapi", "starlette", "uvicorn") if importlib.util.find_spec(name) is None
    ]:
        raise InputError(
            f"serve needs {', '.join(missing)}, which isn't installed; run pip install 'clickprompt[serve]'"
        )
    from clickprompt.runtime.score.serve import serve_run
    from clickprompt.runtime.score.serve_options import TOKEN, ServeOptions

    needs_token = bool(token_file or os.environ.get(TOKEN))
    args = {
        "run": run,
        "data": data,
        "replicas": replicas,
        "gpus": settings.runtime.evaluation_gpus,
        "watch_s": watch,
    }
    options = ServeOptions.of(
        {**args, "token": "required" if needs_token else "none", "token_file": token_file}
    )

    def listening(url: str) -> None:
        facts = {"url": url, "run": run, "replicas": replicas, "token": needs_token}
        finish(as_json, facts, f"{run}: listening on {url}")
        sys.stdout.flush()

    serve_run(options, host=host, port=port, runtime=settings.runtime, listening=listening)
