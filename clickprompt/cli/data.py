"""Commands that fetch, describe and prepare data: fetch, init, prepare, synth, tokenize."""

import os
from typing import Annotated

import typer

from clickprompt.cli.following import after_preparing, after_tokenizing
from clickprompt.cli.format import check_table
from clickprompt.cli.options import ConfigOption, JsonOption, SetOption, app, finish, load_config
from clickprompt.errors import InputError
from clickprompt.io.progress import say


@app.command()
def fetch(
    name: str,
    out: Annotated[str, typer.Option("--out", help="folder to download into")],
    as_json: JsonOption = False,
) -> None:
    """Fetch a public data set or PLM weights and verify the checksum."""
    from clickprompt.data.sources.fetch import fetch as run_fetch

    result = run_fetch(name, out)
    finish(
        as_json,
        {"name": name, "path": result.path, "origin": result.origin},
        f"{name}: {result.path} ({result.origin})",
    )


@app.command()
def init(
    files: Annotated[
        list[str],
        typer.Argument(help="files, folders and patterns: the log, and the tables of items and users"),
    ],
    out: Annotated[
        str | None, typer.Option("--out", help="file or URI of the schema; default: print it")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draft a YAML schema of your own log from its files: fields, label, time and joins, each with a comment
    that helps you check it.
    """
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
    finish(
        as_json,
        result,
        f"{out}: look at it with clickprompt prepare {out} --check" if out else draft.text.rstrip("\n"),
    )


@app.command()
def prepare(
    source: Annotated[
        str, typer.Argument(help="bookcrossing, movielens-1m, …, or a YAML file that describes your own log")
    ],
    out: Annotated[str | None, typer.Option("--out", help="folder or URI of the prepared dataset")] = None,
    raw: Annotated[
        str | None,
        typer.Option("--raw", help="folder with the source's raw files; a YAML file names its own"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="how to split 8:1:1: time (as in the paper), or hash (at random, seeded)"),
    ] = None,
    sample_users: Annotated[
        float | None, typer.Option(help="keep the rows of only this share of the users, such as 0.1")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="text of a row: sentence (as in the paper: 'name is value.'), compact ('value;', about half "
            "the tokens), or a pattern such as '{Age} years old. Item {Title} ({Genre})'"
        ),
    ] = None,
    multi: Annotated[
        list[str] | None,
        typer.Option(help="field of which a row keeps all values: 'Film genre' of MovieLens"),
    ] = None,
    history: Annotated[
        int | None,
        typer.Option(help="number of the user's earlier clicks whose items each row knows, such as 20"),
    ] = None,
    history_of: Annotated[
        str | None, typer.Option(help="which earlier rows --history takes: clicks (the default), or all")
    ] = None,
    history_with: Annotated[
        list[str] | None,
        typer.Option(
            help="what else each row knows of these earlier rows: a field's name, age (how long ago) or "
            "label (whether clicked; with --history-of all); repeatable"
        ),
    ] = None,
    keep_negatives: Annotated[
        float | None,
        typer.Option(
            help="keep only this share of the training rows without a click, such as 0.1; models correct "
            "their probabilities for it"
        ),
    ] = None,
    append: Annotated[
        bool,
        typer.Option(
            "--append", help="add the rows of new raw files to the dataset at --out, as its next version"
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="read a sample and report what is in it; writes nothing")
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a raw log into a prepared dataset: Parquet shards, vocabulary and manifest."""
    settings = load_config(config, overrides)
    if check:
        from clickprompt.data.sources.check import check_source
        from clickprompt.data.sources.registry import get_source

        found = check_source(get_source(source, raw), split_by=split)
        finish(as_json, found, f"{check_table(found)}\nnothing was written")
        return
    if not out:
        raise InputError(
            "--out is missing: give the folder or URI of the prepared dataset, or --check to look at a "
            "sample only"
        )
    from clickprompt.data.prepared.dataset import SPLITS

    if append:
        if sample_users is not None:
            raise InputError(
                "--append takes the rows of all users; leave --sample-users out, or prepare in a new place"
            )
        own = {
            "--multi": multi,
            "--history": history is not None or history_of is not None or bool(history_with),
            "--keep-negatives": keep_negatives is not None,
        }
        if given := [option for option, is_given in own.items() if is_given]:
            raise InputError(f"--append goes on with the dataset's own options; leave {given[0]} out")
        from clickprompt.runtime.prepare.append import append as run_append

        seed = settings.seed if "seed" in settings.model_fields_set else None
        dataset = run_append(
            source, raw, out, split_by=split, seed=seed, template=template, runtime=settings.runtime
        )
    else:
        from clickprompt.runtime.prepare.prepare import prepare as run_prepare

        dataset = run_prepare(
            source,
            raw,
            out,
            split_by=split,
            seed=settings.seed,
            sample_users=sample_users,
            template=template,
            multi=multi or (),
            history=history,
            history_of=history_of,
            history_with=history_with or (),
            keep_negatives=keep_negatives,
            runtime=settings.runtime,
        )
    counts = {split: dataset.counts[split] for split in SPLITS}
    fields, features = len(dataset.field_names), dataset.num_features
    result = {
        "path": out,
        "version": dataset.version,
        "counts": counts,
        "fields": fields,
        "features": features,
    }
    result["fingerprint"] = dataset.fingerprint
    rows = f"{' / '.join(f'{count:,}' for count in counts.values())} rows ({' / '.join(counts)})"
    finish(
        as_json,
        result,
        f"{rows}, {fields} fields, {features:,} features: {out}, version {dataset.version}",
        then=after_preparing(out),
    )


def _whole_number(value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise typer.BadParameter(f"{value} is not a whole number; give digits, such as 1000000") from error


@app.command()
def synth(
    name: Annotated[str, typer.Argument(help="data set whose shape the log imitates: goodreads")],
    rows: Annotated[
        int,
        typer.Option(
            "--rows", parser=_whole_number, metavar="N", help="number of interactions, at least 1,000"
        ),
    ],
    out: Annotated[str, typer.Option("--out", help="folder or URI of the log")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate a synthetic log from a known click model, so that the best possible AUC is known, and the
    schema to prepare it with.
    """
    settings = load_config(config, overrides)
    from clickprompt.runtime.prepare.synth import synth as run_synth

    facts = run_synth(name, out, rows, seed=settings.seed, runtime=settings.runtime)
    features, rate = facts["num_features"], facts["positive_rate"]
    figures = (
        f"{len(facts['field_sizes'])} fields, {features:,} features, {rate:.1%} positive, Bayes AUC "
        f"{facts['bayes_auc']:.4f}"
    )
    finish(as_json, {"path": out, **facts}, f"{rows:,} rows, {figures}: {out}/schema.yaml")


@app.command()
def tokenize(
    dataset: str,
    plm: Annotated[str, typer.Option("--plm", help="hub name or folder of the tokenizer")],
    version: Annotated[
        int | None, typer.Option("--version", help="version of the dataset; default: the newest")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the token table of a prepared dataset for one PLM's tokenizer."""
    settings = load_config(config, overrides)
    from clickprompt.data.prepared.dataset import Dataset
    from clickprompt.data.text.template import load_tokenizer
    from clickprompt.runtime.prepare.tokenize import tokenize as run_tokenize

    table = run_tokenize(Dataset.open(dataset, version), load_tokenizer(plm), settings.runtime)
    facts = {
        "path": table.uri,
        "dataset": dataset,
        "fingerprint": table.meta["fingerprint"],
        "max_length": table.max_length,
    }
    figures = (
        f"{len(table.offsets) - 1:,} values, {len(table.tokens):,} tokens, rows of up to {table.max_length}"
    )
    finish(as_json, facts, f"token table: {table.uri} ({figures})", then=after_tokenizing(dataset, plm))
