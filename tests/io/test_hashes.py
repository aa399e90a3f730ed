"""Files are hashed again only if they have changed."""

import os
import time

import pytest

from clickprompt.errors import InputError
from clickprompt.io import storage
from clickprompt.io.hashes import RECEIPT, Hashes
from tests.support.hashed import grow_old, hashed

NAMES = ["a", "below/b"]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        storage.write_bytes(f"{tmp_path}/{name}", name.encode() * 1000)
    grow_old(str(tmp_path))
    return str(tmp_path)


def all_of(folder: str, names=NAMES, **options) -> list[str]:
    hashes = Hashes(folder, names)
    found = [hashes.sha256(name) for name in names]
    hashes.remember(**options)
    return found


def test_once_and_again_after_a_change(folder, monkeypatch):
    read = hashed(monkeypatch)
    first = all_of(folder)
    assert first == [storage.sha256_bytes(name.encode() * 1000) for name in NAMES]
    assert all_of(folder) == first
    assert read == [f"{folder}/{name}" for name in NAMES]
    with open(f"{folder}/a", "r+b") as stream:  # of the same size
        stream.write(b"b")
    assert all_of(folder)[0] == storage.sha256_bytes(b"b" + b"a" * 999)
    os.truncate(f"{folder}/below/b", 10)
    assert all_of(folder)[1] == storage.sha256_bytes(b"below/bbel")
    assert read[2:] == [f"{folder}/a", f"{folder}/a", f"{folder}/below/b"], "a is young the second time"
    os.unlink(f"{folder}/a")
    with pytest.raises(InputError, match="no such file"):
        all_of(folder)


def test_a_young_file_is_not_remembered(folder, monkeypatch):
    os.utime(f"{folder}/a")
    all_of(folder)
    read = hashed(monkeypatch)
    all_of(folder)
    assert read == [f"{folder}/a"]


def test_what_is_kept_of_other_files(folder, monkeypatch):
    for name in NAMES:
        all_of(folder, [name])
    assert storage.read_json(f"{folder}/{RECEIPT}").keys() == {*NAMES}
    storage.write_bytes(f"{folder}/c", b"c")
    grow_old(f"{folder}")
    all_of(folder, ["c"], alone=True)
    assert storage.read_json(f"{folder}/{RECEIPT}").keys() == {"c"}


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_a_damaged_receipt_is_none(folder, content):
    storage.write_bytes(f"{folder}/{RECEIPT}", content)
    first = all_of(folder)
    assert first == [storage.sha256_bytes(name.encode() * 1000) for name in NAMES]
    assert storage.read_json(f"{folder}/{RECEIPT}").keys() == {*NAMES}


def test_where_no_receipt_can_be_written(folder):
    os.mkdir(f"{folder}/{RECEIPT}")  # permissions don't stop root
    first = all_of(folder)
    assert all_of(folder) == first


def test_in_a_bucket(bucket, monkeypatch):
    storage.write_bytes(f"{bucket}/folder/a", b"a")
    time.sleep(3)
    read = hashed(monkeypatch)
    for _ in range(2):
        assert all_of(f"{bucket}/folder", ["a"]) == [storage.sha256_bytes(b"a")]
    storage.write_bytes(f"{bucket}/folder/a", b"b")
    assert all_of(f"{bucket}/folder", ["a"]) == [storage.sha256_bytes(b"b")]
    assert read == [f"{bucket}/folder/a"] * 2
