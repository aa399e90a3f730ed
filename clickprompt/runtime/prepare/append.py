"""Append rows of new raw files to a prepared dataset as its next version, in the same place.

The layout is in data/prepared/dataset.py. The new rows are split among themselves, so no row that was ever
held out becomes a training row; ids, once given, stay. New rows are joined to the tables as they are now, and
so are rows that are predicted from this version on; earlier rows keep what they had.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import MANIFEST, SPLITS, Dataset, version_folder, version_uri
from clickprompt.data.prepared.given_vectors import open_vectors
from clickprompt.data.sources.raw import Source
from clickprompt.data.sources.registry import get_source
from clickprompt.data.sources.table import Table
from clickprompt.data.transform.row_transform import FieldRule
from clickprompt.errors import ClickPromptError, DataError, InputError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime.prepare.appended_values import extended_vocabulary, histories_continued
from clickprompt.runtime.prepare.coded_log import joined_tables, read_log, sample_negatives
from clickprompt.runtime.prepare.fan_out import FanOut, fan_out
from clickprompt.runtime.prepare.given_vectors import Measured, measure_vectors, write_vectors
from clickprompt.runtime.prepare.prepare import MOST_BYTES
from clickprompt.runtime.prepare.splits import count_rows, cut_by_split, write_shards
from clickprompt.runtime.prepare.vocabulary import write_transform, write_vocabularies

__all__ = ["append"]


def append(
    source_name: str,
    raw_dir: str | None,
    out_uri: str,
    *,
    split_by: str | None = None,
    seed: int | None = None,
    template: str | None = None,
    rows_per_shard: int | None = None,
    row_group_rows: int | None = None,
    runtime: RuntimeConfig | None = None,
    progress: Callable[[str], None] = say,
) -> Dataset:
    """Append the raw files that the dataset at `out_uri` doesn't have yet, and return the dataset.

    Without new files it is returned as it is. The new rows are split 8:1:1 as the dataset was. Shards, order
    and ids are made as by `prepare`; row_ids and the ids of new values continue where the dataset's end. The
    options are the dataset's; one that is given must be the same. If an append is killed or fails, the
    version that was there stays.

    Raises DataError for a raw file that changed or is gone, a malformed line (with its number) or a damaged
    vocabulary; InputError for a source that must be prepared as a whole, another schema or option, a place
    that can't be written, or another append at the same time.
    """
    out_uri = storage.native(out_uri)
    source = get_source(source_name, raw_dir and storage.native(raw_dir))
    if not isinstance(source, Table) or source.needs_all_rows():
        raise InputError(
            f"--append: {source_name} has {source.needs_all_rows()}, which needs all rows at once; prepare "
            "all of them in a new place"
        )
    dataset = Dataset.open(out_uri)
    given = {
        "split": split_by,
        "seed": seed,
        "template": template,
        "rows_per_shard": rows_per_shard,
        "row_group_rows": row_group_rows,
    }
    _check_same(dataset, source_name, source, given)
    new = _new_files(dataset, source)
    if not new:
        progress(f"{out_uri}: no new raw files; version {dataset.version} stays")
        return dataset
    source = source.only(new)
    source.raw_files()  # raises where one of them can't be right
    source = source.continued([FieldRule.from_json(rule) for rule in dataset.manifest["transform"]["fields"]])
    dataset.verify([])  # the vocabularies continue in the new version
    # A random suffix, so that another append at the same time writes elsewhere
    folder = f"{version_folder(dataset.version + 1)}{uuid.uuid4().hex[:8]}"
    try:
        filesystem, path = storage.resolve(storage.join(out_uri, folder))
        with storage.user_errors(out_uri):  # fails before the work starts if the place can't be written
            filesystem.create_dir(path, recursive=True)
        progress(f"appending {len(new)} raw files to version {dataset.version}")
        with fan_out(
            runtime or RuntimeConfig(), sum(new.values()), MOST_BYTES, "bytes of new raw files"
        ) as work:
            manifest = _write_files(work, dataset, source, folder, progress)
        manifest["raw_files"] = dataset.manifest["raw_files"] | new | source.table_files()
        if Dataset.open(out_uri).fingerprint != dataset.fingerprint:
            raise _late(out_uri)
        storage.write_json(version_uri(out_uri, dataset.version), dataset.manifest)
        storage.write_json(storage.join(out_uri, MANIFEST), dataset.manifest | manifest)
    except BaseException as error:
        if Dataset.open(out_uri).version == dataset.version:
            storage.delete_tree(storage.join(out_uri, folder))
        elif isinstance(error, ClickPromptError):  # the other has deleted this one's files
            raise _late(out_uri) from error
        raise
    # Delete what killed appends have left, and what appends that now come too late have written
    for name in storage.list_names(out_uri):
        if name.startswith(f"v{dataset.version + 1}-") and name != folder:
            storage.delete_tree(storage.join(out_uri, name))
    return Dataset.open(out_uri)


def _late(uri: str) -> InputError:
    return InputError(
        f"{uri}: another append came first; give the same command again to append to its version"
    )


def _check_same(dataset: Dataset, source_name: str, source: Source, given: dict[str, Any]) -> None:
    manifest, uri = dataset.manifest, dataset.uri
    if manifest["source"] != source.name:
        raise InputError(
            f"{uri}: was not prepared by {source_name} as it is now; --append needs the same schema, data "
            "patterns included"
        )
    options = {"template": "sentence", **manifest["options"]}  # the default isn't stored
    for name, value in given.items():
        if value is not None and value != options[name]:
            raise InputError(
                f"{uri}: was prepared with {name}={options[name]}, not {value}; --append keeps "
                "it, leave it out"
            )
    _check_histories(dataset, source)
    if "sample_users" in manifest["options"]:
        raise InputError(
            f"{uri}: holds a sample of the users, which --append can't go on with; prepare all raw files in "
            "a new place"
        )


def _check_histories(dataset: Dataset, source: Source) -> None:
    """Raise InputError if the shards don't have all earlier rows of a user."""
    if dataset.history is None or dataset.manifest["history"]["events"] == "column":
        return
    remedy = "so --append can't go on with its histories; prepare all raw files in a new place"
    user = dataset.manifest["roles"]["user"]
    if source.min_count(user) > 1:
        raise InputError(f"{dataset.uri}: {user} has a min_count, and rare users are as one, {remedy}")
    if dataset.keep_negatives is not None and dataset.manifest["history"]["events"] == "all":
        raise InputError(f"{dataset.uri}: keep_negatives has left rows out, {remedy}")


def _measured(dataset: Dataset, source: Source) -> Measured:
    """Read all given vectors once; they are scaled as those of the version before."""
    before = {entry["field"]: entry for entry in dataset.vectors}
    measured = []
    for given, size, _ in measure_vectors(source):
        entry = before[given.field]
        if size != entry["size"]:
            raise DataError(
                f"{given.file.data}: its vectors have {size:,} numbers, and those of {dataset.uri} "
                f"{entry['size']:,}; give vectors of the same model, or prepare the log in a new place"
            )
        measured.append((given, size, entry["scale"]))
    return measured


def _new_files(dataset: Dataset, source: Table) -> dict[str, int]:
    found, known, tables = source.files(), dataset.manifest["raw_files"], source.table_files()
    for name, size in known.items():
        if name in tables:
            continue
        if name not in found:
            raise DataError(
                f"{name}: gone, but its rows are in {dataset.uri}; put it back, or prepare the log in a new "
                "place"
            )
        if found[name] != size:
            raise DataError(
                f"{name}: has {found[name]:,} bytes, and had {size:,} when it was prepared into "
                f"{dataset.uri}; restore it and put new rows into files of their own, or prepare the log in "
                "a new place"
            )
    return {name: size for name, size in found.items() if name not in known}


def _write_files(
    work: FanOut, dataset: Dataset, source: Source, folder: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Write everything but the manifests; return how the new version's manifest differs from the old one.

    The raw files aren't in what is returned.
    """
    old, options = dataset.manifest, dataset.manifest["options"]
    given = _measured(dataset, source)
    uri = storage.join(dataset.uri, folder)
    stage = storage.join(uri, "staging")
    tables = joined_tables(source)
    log, statistics = read_log(
        work, source, tables, options, stage, first_row_id=old["statistics"]["raw_rows"], progress=progress
    )
    sizes, starts = cut_by_split(work, log, options, progress, source.grouped)
    before = log.rows
    log, sizes = sample_negatives(work, log, sizes, starts, options, progress)
    if "keep_negatives" in options:
        statistics["negatives_left_out"] = before - log.rows
    counted = count_rows(work, log, source.fields, starts, options, stage)
    fields, ids = extended_vocabulary(work, dataset, source, tables, counted, stage)
    histories = histories_continued(work, dataset, tables, log, ids, stage)
    scales = {number: rule.scale for number, rule in enumerate(source.rules()) if rule.scale}
    shards, bounds, clicks, weights, labels = write_shards(
        work,
        log,
        starts,
        sizes,
        options,
        stage,
        uri,
        ids,
        dataset.value_columns,
        histories,
        scales,
        dataset.labels,
    )
    described = write_vocabularies(work, uri, fields, dataset.columns)
    vectors = _below(folder, write_vectors(uri, given, described, progress, open_vectors(dataset)))
    storage.delete_tree(stage)
    storage.delete_half_written(uri)  # a task whose worker was killed may have left something
    statistics["clicks"] = log.clicks
    transform = write_transform(uri, source, source.rules(), tables)
    joined = {
        name: entry | {"file": f"{folder}/{entry['file']}"} for name, entry in transform["tables"].items()
    }
    return {
        "version": dataset.version + 1,
        **({"vectors": vectors} if given else {}),
        "transform": old["transform"] | {"tables": joined},
        "fields": _below(folder, described),
        "num_features": sum(field.facts["features"] for field in fields),
        "counts": _sums(old["counts"], sizes),
        "clicks": _sums(old["clicks"], clicks),
        **({"weights": _weight_sums(old["weights"], weights)} if dataset.weighted else {}),
        **({"labels": _label_sums(old["labels"], labels)} if labels else {}),
        "statistics": _sums(old["statistics"], statistics),
        "bounds": {split: _hull(old["bounds"][split], bounds.get(split)) for split in SPLITS},
        "shards": {split: [*old["shards"][split], *_below(folder, shards[split])] for split in SPLITS},
    }


def _below(folder: str, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry | {"file": f"{folder}/{entry['file']}"} for entry in entries]


def _sums(old: dict[str, int], new: dict[str, int]) -> dict[str, int]:
    return {
        name: old.get(name, 0) + new.get(name, 0)
        for name in [*old, *(name for name in new if name not in old)]
    }


def _weight_sums(old: dict[str, list[float]], new: dict[str, list[float]]) -> dict[str, list[float]]:
    return {
        split: [before + more for before, more in zip(sums, new.get(split, [0.0, 0.0]), strict=True)]
        for split, sums in old.items()
    }


def _label_sums(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": label["name"], **{key: _sums(label[key], more[key]) for key in ("known", "positive")}}
        for label, more in zip(old, new, strict=True)
    ]


def _hull(old: list[int], new: list[int] | None) -> list[int]:
    return [min(old[0], new[0]), max(old[1], new[1])] if new else old
