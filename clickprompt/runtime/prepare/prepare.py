"""Prepare a dataset from a raw log, in this process or on Ray.

Rows go through files (data/prepared/staging.py). A task holds the rows of one file or one shard, or the
values of one partition of a column (data/prepared/partitions.py); the driver holds histograms and the tables
that the log is joined to. So memory grows neither with the log nor with its vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from clickprompt.config import Multi, RuntimeConfig, multi_columns
from clickprompt.data.prepared.dataset import FORMAT_VERSION, MANIFEST, SPLITS, Dataset, field_columns
from clickprompt.data.sources.raw import Source
from clickprompt.data.sources.registry import get_source
from clickprompt.data.text.template import TEMPLATE, stored_template
from clickprompt.data.transform.instants import day_of
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from clickprompt.io.folders import clear_unfinished, new_folder
from clickprompt.io.progress import say
from clickprompt.runtime.prepare.coded_log import (
    drop_repeats,
    joined_tables,
    k_core,
    read_log,
    sample_negatives,
    sample_users,
)
from clickprompt.runtime.prepare.fan_out import FanOut, fan_out
from clickprompt.runtime.prepare.given_vectors import measure_vectors, write_vectors
from clickprompt.runtime.prepare.histories import find_histories, history_options
from clickprompt.runtime.prepare.labels import check_labels, say_labels
from clickprompt.runtime.prepare.numbers import fit_scales, with_scales
from clickprompt.runtime.prepare.splits import count_rows, cut_by_split, write_shards
from clickprompt.runtime.prepare.vocabulary import (
    build_vocabulary,
    in_buckets,
    write_transform,
    write_vocabularies,
)

__all__ = ["MOST_BYTES", "prepare"]

SPLIT_BY = ("time", "hash", "column")
MOST_BYTES = 128_000_000
"""raw bytes that one process prepares with runtime.use_ray=auto. It reads 12 MB/s of MovieLens-1M's text and
5 MB/s of Parquet with 15 fields, so this takes it 10 to 30 s; Ray takes about as long to start.
"""
_MUCH_UNSEEN = 0.01  # share of a split's rows from which unseen values are reported
_STAGE = "staging"  # below the target's temporary name


def prepare(
    source_name: str,
    raw_dir: str | None,
    out_uri: str,
    *,
    split_by: str | None = None,
    seed: int = 0,
    sample_users: float | None = None,
    template: str | None = None,
    multi: Sequence[str] = (),
    history: int | None = None,
    history_of: str | None = None,
    history_with: Sequence[str] = (),
    keep_negatives: float | None = None,
    rows_per_shard: int = 65536,
    row_group_rows: int = 4096,
    runtime: RuntimeConfig | None = None,
    progress: Callable[[str], None] = say,
) -> Dataset:
    """Prepare `raw_dir` as `out_uri`. The same input gives the same bytes on any number of machines.

    The split is 8:1:1 by global time with ties by row order (the paper's), or by the rank of a seeded hash.
    With the hash every user is in every split, and results don't compare with Table 2. Without `split_by`
    the source's split is used.

    With `sample_users`, a share between 0 and 1, only the rows of that share of users are kept, before
    k-core; the seed decides which users.

    `template` is how a row becomes text, a name of TEMPLATES or a pattern (data/text/template.py); without it
    the source's is used.

    `multi`: fields of a known log of which a row keeps all values (the genres of a film), not only the first.

    With `history`, every row gets the items of so many earlier rows of its user (data/prepared/history.py),
    of clicks or of `all` rows (`history_of`); without it the source's is used. `history_with`: what else it
    gets of each of these rows, fields' names, `label` or `age`.

    With `keep_negatives`, a share between 0 and 1, only that share of the training rows without a click is
    kept, drawn by (seed, row_id); models correct their probabilities for it (config/sampling.py). Validation
    and test stay whole. Without it the source's is used.

    A dataset made before from the same raw files with the same options is returned as it is.

    Raises DataError for a missing raw file, a malformed line (with its number) or an empty split; InputError
    for an unknown source, or a target that can't be written or holds something else. Then nothing is left at
    `out_uri`.
    """
    # Ray tasks run in folders of their own
    out_uri = storage.native(out_uri)
    source = get_source(source_name, raw_dir and storage.native(raw_dir))
    if multi:
        source = source.with_multi(multi)
    field_columns(source.fields)  # raises if two names give the same column
    if rows_per_shard < 1 or row_group_rows < 1:
        raise InputError(
            f"rows_per_shard={rows_per_shard}, row_group_rows={row_group_rows}: both must be at least 1"
        )
    split_by = split_by or source.split
    if split_by not in SPLIT_BY:
        raise InputError(f"split {split_by!r} is unknown; known: {', '.join(SPLIT_BY)}")
    if split_by != "hash" and split_by != source.split:
        raise InputError(
            f"split {split_by}: {source.name} has no {split_by} to split by; use {source.split} or hash"
        )
    options: dict[str, Any] = {
        "split": split_by,
        "seed": seed,
        "rows_per_shard": rows_per_shard,
        "row_group_rows": row_group_rows,
    }
    if sample_users is not None:
        if not 0 < sample_users < 1:
            raise InputError(
                f"sample_users={sample_users}: must be above 0 and below 1; for all users leave it out"
            )
        options["sample_users"] = sample_users
    template = template or source.template
    if stored_template(template, source.fields) != TEMPLATE:
        options["template"] = template
    if multi:
        options["multi"] = [*multi]
    options |= (of_history := history_options(source, history, history_of, history_with))
    if of_history:
        source = source.with_history(of_history["history"])
    keep_negatives = source.keep_negatives if keep_negatives is None else keep_negatives
    if keep_negatives is not None:
        if not 0 < keep_negatives < 1:
            raise InputError(
                f"keep_negatives={keep_negatives}: must be above 0 and below 1; for all rows leave it out"
            )
        if source.labels:
            raise InputError(
                f"keep_negatives={keep_negatives}: {source.name} has labels besides, and rows left out by "
                "their click are no sample for these, whose probabilities couldn't be corrected; leave it out"
            )
        options["keep_negatives"] = keep_negatives
    identity = {"source": source.name, "raw_files": source.raw_files(), "options": options}
    if existing := _existing(out_uri, identity, source, progress):
        progress(f"{out_uri} is prepared already")
        return existing
    with new_folder(out_uri) as work_uri:
        with fan_out(
            runtime or RuntimeConfig(), sum(identity["raw_files"].values()), MOST_BYTES, "bytes of raw files"
        ) as work:
            manifest = _write_files(work, source, work_uri, options, progress)
        storage.write_json(storage.join(work_uri, MANIFEST), identity | manifest)
    return Dataset.open(out_uri)


def _existing(
    uri: str, identity: dict[str, Any], source: Source, progress: Callable[[str], None]
) -> Dataset | None:
    if not storage.exists(uri) or storage.list_names(uri) == []:
        return None
    if not storage.exists(storage.join(uri, MANIFEST)):
        if clear_unfinished(uri):
            progress(f"{uri}: cleared of what an interrupted prepare had left")
            return None
        raise InputError(
            f"{uri}: something other than a prepared dataset is there; give an empty or new place"
        )
    dataset = Dataset.open(uri)
    if any(dataset.manifest.get(key) != value for key, value in identity.items()):
        tables = source.table_files()
        known, now = (
            {file for file in files.items() if file[0] not in tables}
            for files in (dataset.manifest["raw_files"], identity["raw_files"])
        )
        same = all(dataset.manifest.get(key) == identity[key] for key in ("source", "options"))
        grown = same and known < now and not source.needs_all_rows()
        remedy = (
            "add the rows of the new ones with --append, or delete it"
            if grown
            else "delete it or give another place"
        )
        raise InputError(
            f"{uri}: holds a dataset prepared from other raw files or with other options; {remedy}"
        )
    return dataset


def _write_files(
    work: FanOut, source: Source, uri: str, options: dict[str, Any], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Write everything but the manifest, and return the manifest's content."""
    if source.remark:
        progress(f"note: {source.remark}")
    given = measure_vectors(source)
    stage = storage.join(uri, _STAGE)
    tables = joined_tables(source)
    if "sample_users" in options and source.user not in {*source.fields, *tables}:
        raise InputError("sample_users: no field is the user's; add one whose column is the schema's user")
    log, statistics = read_log(work, source, tables, options, stage, progress=progress)
    for column in log.columns:
        # JSON lines don't say which columns they have
        if len(column) == 1 and column.name in source.fields and not column.in_table:
            raise DataError(
                f"{source.raw_dir}: no row of the log has a {column.name}; correct its column or leave the "
                "field out"
            )
    if "sample_users" in options:
        before, log = log, sample_users(work, source, log, options)
        statistics["sampled_out"] = before.rows - log.rows
    if source.latest_only:
        before, log = log, drop_repeats(work, source, log, progress)
        statistics["repeats_dropped"] = before.rows - log.rows
    if source.k_core > 1:
        before, log = log, k_core(work, source, log, progress)
        statistics["k_core_dropped"] = before.rows - log.rows
    if log.clicks in (0, log.rows):
        all_alike = (
            f"all of the {log.rows:,} rows are clicks"
            if log.clicks
            else f"none of the {log.rows:,} rows is a click"
        )
        raise DataError(f"{source.raw_dir}: {all_alike}: there is nothing to learn; check the label rule")
    if options["split"] == "time" and log.first_key == log.last_key and log.rows > 1:
        raise DataError(
            f"{source.raw_dir}: all {log.rows:,} rows have the same timestamp: no order in time; use "
            "--split hash"
        )
    sizes, starts = cut_by_split(work, log, options, progress, source.grouped)
    for split in SPLITS:
        if not sizes[split]:
            needed = "groups of rows shown together" if source.grouped else "rows"
            raise DataError(
                f"{source.raw_dir}: {log.rows} rows are left after the label rule, so the {split} split is "
                f"empty; at least 3 {needed} are needed"
            )
    histories = find_histories(work, source, tables, log.files, log.columns, log.rows, options, stage)
    before = log.rows
    log, sizes = sample_negatives(work, log, sizes, starts, options, progress)
    if "keep_negatives" in options:
        statistics["negatives_left_out"] = before - log.rows
    scales = fit_scales(work, source, log, (starts, log.first_key, options["seed"]))
    counted = count_rows(work, log, source.fields, starts, options, stage)
    fields, ids, rules = build_vocabulary(work, source, tables, counted, stage)
    rules = with_scales(rules, scales)
    columns = field_columns(source.fields)
    several = [(number, rule.schema.most_values) for number, rule in enumerate(rules)]
    multi = [Multi(number, most) for number, most in several if most]
    shards, bounds, clicks, weights, labels = write_shards(
        work,
        log,
        starts,
        sizes,
        options,
        stage,
        uri,
        ids,
        [*columns, *multi_columns(multi)],
        histories,
        scales,
        source.labels,
    )
    if source.weighted:
        _check_weights(source, weights)
    check_labels(source, labels)
    described = write_vocabularies(work, uri, fields, columns)
    storage.delete_tree(stage)
    _say_what_was_found(source, described, sizes, clicks, bounds, progress)
    say_labels(labels, sizes, progress)
    more: dict[str, Any] = {"weighted": True, "weights": weights} if source.weighted else {}
    if labels:
        more["labels"] = labels
    if histories is not None:
        events = options.get("history_of", "column")
        more["history"] = histories.history.to_json() | {"events": events}
    if multi:
        more["multi"] = [asdict(one) for one in multi]
    if scales:
        more["numbers"] = [*scales]
    if given:
        more["vectors"] = write_vectors(uri, given, described, progress)
    return {
        "format_version": FORMAT_VERSION,
        **more,
        "transform": write_transform(
            uri, source, rules, {key: in_buckets(table, rules) for key, table in tables.items()}
        ),
        "roles": source.roles(),
        "grouped": source.grouped,
        "template": stored_template(options.get("template", "sentence"), source.fields),
        "fields": described,
        "num_features": sum(field["features"] for field in described),
        "counts": sizes,
        "clicks": clicks,
        "statistics": statistics | {"clicks": log.clicks},
        "bounds": bounds,
        "row_group_rows": options["row_group_rows"],
        "shards": shards,
    }


def _check_weights(source: Source, weights: dict[str, list[float]]) -> None:
    for split in SPLITS:
        if not weights[split][0]:
            raise DataError(
                f"{source.raw_dir}: all rows of the {split} split have the weight 0, so none counts; correct "
                "the schema's weight"
            )


def _say_what_was_found(
    source: Source,
    fields: list[dict[str, Any]],
    sizes: dict[str, int],
    clicks: dict[str, int],
    bounds: dict[str, list[int]],
    progress: Callable[[str], None],
) -> None:
    """Print dates, click rates and unseen values, split by split.

    It is better to know before training what a split can't show.
    """
    for split in SPLITS:
        rows, clicked = sizes[split], clicks[split]
        dates = f", {' to '.join(map(day_of, bounds[split]))}" if source.split == "time" else ""
        shares = (
            [(entry["unseen_in_train"].get(split, 0) / rows, entry["name"]) for entry in fields]
            if split != "train"
            else []
        )
        unseen = "; ".join(
            f"{name} {share:.0%}" for share, name in sorted(shares, reverse=True)[:3] if share >= _MUCH_UNSEEN
        )
        progress(
            f"{split}: {rows:,} rows, {clicked / rows:.1%} "
            f"clicks{dates}{f'; never seen in training: {unseen}' if unseen else ''}"
        )
        if clicked in (0, rows):
            lacks = (
                "finetuning can't choose the best step by it" if split == "valid" else "its AUC is undefined"
            )
            if split == "train":
                lacks = "there is nothing to learn"
            progress(
                f"warning: {split} has {'clicks' if clicked else 'no clicks'} only: {lacks}; split by hash, "
                "or prepare more rows"
            )
