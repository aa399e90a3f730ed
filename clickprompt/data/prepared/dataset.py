"""The prepared format (DESIGN §3.1): a manifest, a vocabulary per field, Parquet shards of ids per split.

- manifest.json: written last; a folder without it is not a dataset.
- vocab/<nn>-<name>.parquet: id int32, value string, train_count int64. Row i is id i. Id 0 means unknown:
  a missing value, a rare one, or one that came later.
- <split>/part-<nnnnn>.parquet: row_id int64, label int8, timestamp int64 (microseconds since 1970 UTC),
  f_<name> int32 per field, `group` int64 if the log says which rows were shown together, v_<nn>_<nn> int32
  for a field's further values (config/multi.py), h_<nn> int32 for histories (history.py), n_<nn> int32 for
  numbers (config/numbers.py), `importance` float32 if rows have weights, and label_<name> int8 for further
  labels (config/tasks.py).
- vectors/<nn>.bin: given vectors of a field's values (data/prepared/given_vectors.py).
- tables/<nn>.parquet: a table that rows are joined to: its keys, and the texts of the fields it provides.
- tokens/<fingerprint>/: one token table per tokenizer (data/text/template.py).
- v<n>-<random>/: version n's vocab/, and the <split>/ of the rows that version n adds to version n − 1
  (runtime/prepare/append.py).
- versions/<n>.json: the manifest of version n, once there is a newer one.
- verified.json: which files `verify` has found right (io/hashes.py).
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clickprompt.config import SPLITS, History, Multi, multi_columns, number_columns, require_split
from clickprompt.data.prepared.labelled import LabelledRows, labelled_draws
from clickprompt.data.prepared.manifest import check_manifest, check_vocabulary, naming, read_manifest
from clickprompt.data.prepared.schemas import field_columns, shard_schema, slug, vocabulary_file
from clickprompt.data.text.template import TEMPLATE
from clickprompt.errors import DataError
from clickprompt.io import storage
from clickprompt.io.hashes import Hashes

__all__ = [
    "FORMAT_VERSION",
    "SPLITS",
    "Dataset",
    "columns_of",
    "field_columns",
    "read_table",
    "slug",
    "split_sizes",
    "vocabulary_file",
]

FORMAT_VERSION = 2
MANIFEST = "manifest.json"


class Dataset:
    """A prepared dataset, open for reading. It holds only the address and the manifest, so it is cheap to
    send to a task.
    """

    def __init__(
        self,
        uri: str,
        manifest: dict[str, Any],
        *,
        new_rows: bool = False,
        labelled: LabelledRows | None = None,
    ) -> None:
        """new_rows, labelled: as given by `only_new` and `only_labelled`."""
        self.uri = uri
        self.manifest = manifest
        self._new_rows = new_rows
        self._labelled = labelled

    @classmethod
    def open(cls, uri: str, version: int | None = None) -> "Dataset":
        """Open the newest version, or the given one.

        Raises DataError if nothing is there, it is not a dataset, it has another format version, or it lacks
        the version or any rows of a split.
        """
        where = storage.join(uri, MANIFEST)
        if not storage.exists(where):
            found = "no prepared dataset (no manifest.json)" if storage.exists(uri) else "nothing"
            raise DataError(
                f"{uri}: there is {found} here; make one with clickprompt prepare SOURCE --raw DIR --out "
                f"{uri}"
            )
        manifest = read_manifest(where)
        newest = manifest.get("version", 1)
        if type(newest) is not int:
            raise DataError(f"{where}: version={newest!r} is no number; run clickprompt prepare again")
        if version is not None and version != newest:
            where = version_uri(uri, version)
            if not 1 <= version < newest or not storage.exists(where):
                raise DataError(
                    f"{uri}: has no version {version}; the newest is {newest}; set data.version to "
                    "that or an earlier one"
                )
            manifest = read_manifest(where)
        if manifest["format_version"] != FORMAT_VERSION:
            raise DataError(
                f"{uri}: prepared with format {manifest['format_version']}, this clickprompt reads "
                f"{FORMAT_VERSION}; run clickprompt prepare again"
            )
        check_manifest(where, manifest)
        for split in SPLITS:
            if not manifest["counts"][split]:
                raise DataError(f"{uri}: the {split} split is empty; prepare a log with more rows")
        return cls(uri, manifest)

    def only_new(self) -> "Dataset":
        """Return the same dataset, version and fingerprint, with only those training rows that the version
        before doesn't have.

        The other splits stay whole. Raises DataError if there are no such rows.
        """
        if self.version == 1:
            raise DataError(
                f"{self.uri}: data.rows=new, but version 1 is the first; append a day's rows with "
                "clickprompt prepare --append (a run that began before keeps its version: choose "
                "another --run), or set data.rows=all"
            )
        new = Dataset(self.uri, self.manifest, new_rows=True)
        if not new.counts["train"]:
            raise DataError(
                f"{self.uri}: data.rows=new, but version {self.version} has no training rows of its "
                "own; set data.rows=all"
            )
        return new

    def only_labelled(self, share: float, seed: int) -> "Dataset":
        """Return the same dataset with only a share of its training rows: those whose draw by (seed, row_id)
        is below it, so a larger share has all rows of a smaller one.

        The other splits stay whole, and so does the vocabulary. Raises DataError if no row is left.
        """
        groups = range(len(self.row_group_counts("train")))
        kept = [int((labelled_draws(self._row_ids(index), seed) < share).sum()) for index in groups]
        counts = np.array(kept, dtype=np.int64)
        if not counts.sum():
            raise DataError(
                f"{self.uri}: finetune.label_share={share:g} leaves none of {self.counts['train']:,} "
                "training rows; set a larger share"
            )
        labelled = LabelledRows(share, seed, tuple(counts.tolist()))
        return Dataset(self.uri, self.manifest, new_rows=self._new_rows, labelled=labelled)

    @property
    def field_names(self) -> list[str]:
        return [field["name"] for field in self.manifest["fields"]]

    @property
    def columns(self) -> list[str]:
        """Return the fields' column names in the shards, in the order of `field_names`."""
        return [field["column"] for field in self.manifest["fields"]]

    @property
    def history(self) -> History | None:
        """Return how the shards have what a row's user did before; None if they don't."""
        return History.of(self.manifest.get("history"))

    @property
    def multi(self) -> tuple[Multi, ...]:
        """Return the fields of which rows have several values."""
        return Multi.all_of(self.manifest.get("multi"))

    @property
    def value_columns(self) -> list[str]:
        """Return the columns of the fields' values, F + V: the fields' own, then the further values'."""
        return [*self.columns, *multi_columns(self.multi)]

    @property
    def history_columns(self) -> list[str]:
        """Return the names of the shards' columns of histories; none if they have none."""
        return self.history.columns if self.history else []

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the fields whose numbers rows have (config/numbers.py)."""
        return tuple(self.manifest.get("numbers", ()))

    @property
    def vectors(self) -> list[dict[str, Any]]:
        """Return which fields' values have given vectors (given_vectors.py)."""
        return self.manifest.get("vectors", [])

    @property
    def id_columns(self) -> list[str]:
        """Return the columns that the CTR tower reads, C = F + V + N + K: values, history, numbers."""
        return [*self.value_columns, *self.history_columns, *number_columns(self.numbers)]

    @property
    def field_sizes(self) -> list[int]:
        """Return the number of ids per field, the unknown id 0 included."""
        return [field["size"] for field in self.manifest["fields"]]

    @property
    def grouped(self) -> bool:
        """Return whether the shards have a column `group`: rows with the same number were shown together."""
        return self.manifest.get("grouped", False)

    @property
    def weighted(self) -> bool:
        """Return whether the shards have a column `importance`: how much a row counts."""
        return self.manifest.get("weighted", False)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the labels beside the click (config/tasks.py)."""
        return tuple(label["name"] for label in self.manifest.get("labels", ()))

    @property
    def keep_negatives(self) -> float | None:
        """Return the share of the training rows without a click that are kept; None if all are."""
        return self.manifest.get("options", {}).get("keep_negatives")

    @property
    def template(self) -> str:
        """Return the text of one field of a row (data/text/template.py)."""
        return self.manifest.get("template", TEMPLATE)

    @property
    def num_features(self) -> int:
        """Return the number of feature values over all fields as Table 1 counts them: a missing value counts
        where it occurs, the unknown ids don't.
        """
        return self.manifest["num_features"]

    @property
    def counts(self) -> dict[str, int]:
        counts = dict(self.manifest["counts"])
        if self._new_rows or self._labelled:
            counts["train"] = int(self.row_group_counts("train").sum())
        return counts

    @property
    def version(self) -> int:
        """Return the version, counted from 1; `clickprompt prepare --append` makes the next."""
        return self.manifest.get("version", 1)

    @property
    def fingerprint(self) -> str:
        """Return the sha256 of the manifest, which holds the checksum of every shard and vocabulary file."""
        return storage.sha256_bytes(json.dumps(self.manifest, sort_keys=True).encode())

    def row_group_counts(self, split: str) -> np.ndarray:
        """Return the rows of each row group of the split, [row groups] int64, in shard order."""
        if split == "train" and self._labelled:
            return np.array(self._labelled.row_group_counts, dtype=np.int64)
        return np.array(
            [rows for shard in self._shards(split) for rows in shard["row_groups"]], dtype=np.int64
        )

    def read_row_groups(self, split: str, indices: Sequence[int] | np.ndarray) -> pa.Table:
        """Return the rows of the given row groups (indices as in `row_group_counts`), concatenated in the
        given order.
        """
        shards = self._shards(split)
        starts = np.cumsum([0, *(len(shard["row_groups"]) for shard in shards)])
        files: dict[int, pq.ParquetFile] = {}
        tables = []
        for index in np.asarray(indices, dtype=np.int64):
            if not 0 <= index < starts[-1]:
                raise IndexError(f"row group {index} of split {split}, which has {starts[-1]}")
            shard = int(np.searchsorted(starts, index, side="right")) - 1
            with naming(self._path(shards[shard])):
                if shard not in files:
                    files[shard] = pq.ParquetFile(storage.open_input(self._path(shards[shard])))
                tables.append(files[shard].read_row_group(int(index - starts[shard]), use_threads=False))
        return self._kept(split, pa.concat_tables(tables) if tables else self._schema().empty_table())

    def first_rows(self, split: str, number: int) -> pa.Table:
        """Return the first `number` rows of a split, or all if it has fewer."""
        enough = int(np.searchsorted(np.cumsum(self.row_group_counts(split)), number)) + 1
        groups = np.arange(min(enough, len(self.row_group_counts(split))))
        return self.read_row_groups(split, groups).slice(0, number)

    def read_split(self, split: str) -> pa.Table:
        return pa.concat_tables(self.shard_tables(split))

    def shard_tables(self, split: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the split's shards in order, one table in memory at a time, with all columns or the given
        ones.
        """
        read = columns
        if self._labelled and columns is not None:
            read = [*dict.fromkeys(["row_id", *columns])]
        for shard in self._shards(split):
            table = self._kept(split, read_table(self._path(shard), read))
            yield table if read is columns else table.select(list(columns or ()))

    def vocabulary(self, field: int) -> pa.Table:
        """Return id int32, value string, train_count int64 of one field; row i is id i."""
        return read_table(self._path(self.manifest["fields"][field]))

    def train_counts(self) -> list[np.ndarray]:
        """Return, for each field, the number of training rows with each id, [size] int64."""
        return [
            read_table(self._path(field), ["train_count"])["train_count"].to_numpy()
            for field in self.manifest["fields"]
        ]

    def vocabulary_pieces(self, field: int) -> int:
        """Return the number of pieces in which one field's vocabulary can be read."""
        path = self._path(self.manifest["fields"][field])
        with naming(path), storage.open_input(path) as stream:
            return pq.ParquetFile(stream).num_row_groups

    def vocabulary_piece(self, field: int, piece: int) -> pa.Table:
        path = self._path(self.manifest["fields"][field])
        with naming(path), storage.open_input(path) as stream:
            return pq.ParquetFile(stream).read_row_group(piece, use_threads=False)

    def verify(self, splits: Sequence[str] = SPLITS) -> None:
        """Compare the sha256 of each shard of `splits`, vocabulary and joined table with the manifest.

        A file that was found right before is read again only if it has changed since (io/hashes.py).
        Raises DataError naming the file, also a vocabulary of another size than the manifest says.
        """
        joined = self.manifest.get("transform", {"tables": {}})["tables"].values()
        entries = [
            *self.manifest["fields"],
            *joined,
            *self.vectors,
            *(shard for split in splits for shard in self._shards(split)),
        ]
        hashes = Hashes(self.uri, [entry["file"] for entry in entries])
        for entry in entries:
            with naming(self._path(entry)):
                found = hashes.sha256(entry["file"])
            if found != entry["sha256"]:
                raise DataError(
                    f"{self._path(entry)}: corrupted, sha256 {found[:12]}… is not the manifest's "
                    f"{entry['sha256'][:12]}…; run clickprompt prepare again"
                )
        for entry in self.manifest["fields"]:
            check_vocabulary(self._path(entry), entry["size"])
        hashes.remember()

    def _kept(self, split: str, rows: pa.Table) -> pa.Table:
        """Return those rows of a split that this view has, in their order."""
        if split != "train" or self._labelled is None:
            return rows
        draws = labelled_draws(rows.column("row_id").to_numpy(), self._labelled.seed)
        return rows.filter(pa.array(draws < self._labelled.share))

    def _row_ids(self, row_group: int) -> np.ndarray:
        """Return the row ids of a row group of the training split."""
        return self.read_row_groups("train", [row_group]).column("row_id").to_numpy()

    def _shards(self, split: str) -> list[dict[str, Any]]:
        shards = self.manifest["shards"][require_split(split)]
        if split == "train" and self._new_rows:
            return [shard for shard in shards if shard["file"].startswith(version_folder(self.version))]
        return shards

    def _path(self, entry: dict[str, Any]) -> str:
        return storage.inside(self.uri, entry["file"])

    def _schema(self) -> pa.Schema:
        return shard_schema(self.id_columns, self.grouped, weighted=self.weighted, labels=self.labels)


def version_uri(uri: str, version: int) -> str:
    """Return the address of the manifest of a version that is not the newest."""
    return storage.join(uri, "versions", f"{version}.json")


def version_folder(version: int) -> str:
    """Return how the name of the folder begins that holds the rows which this version added."""
    return f"v{version}-"


def split_sizes(rows: int) -> dict[str, int]:
    """Split 8:1:1 as the paper's Table 1 rounds it: test = ⌈N/10⌉, valid = ⌈(N − test)/9⌉, train =
    the rest.
    """
    test = -(-rows // 10)
    valid = -(-(rows - test) // 9)
    return {"train": rows - test - valid, "valid": valid, "test": test}


def columns_of(table: pa.Table) -> dict[str, np.ndarray]:
    """Return a table's columns as arrays, by name."""
    return {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    with naming(path), storage.open_input(path) as stream:
        return pq.ParquetFile(stream).read(columns, use_threads=False)
