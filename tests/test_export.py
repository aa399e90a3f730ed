"""An export takes the place of an earlier one; what was there stays until all is copied."""

import os
import threading

import pytest

from clickprompt import storage
from clickprompt.errors import InputError
from clickprompt.export import INFO, publish


def made(folder, number, more=()):
    os.makedirs(folder)
    files = {"model.safetensors": f"weights {number}" * 1000, **{name: name for name in more}}
    for name, content in files.items():
        storage.write_bytes(os.path.join(folder, name), content.encode())
    listed = {name: storage.sha256(os.path.join(folder, name)) for name in files}
    storage.write_json(os.path.join(folder, INFO), {"number": number, "files": listed})
    return folder


def files_of(uri):
    return storage.list_files(uri)


def test_the_last_one_is_there_whole(place, tmp_path):
    uri = storage.join(place, "export")
    publish(made(str(tmp_path / "one"), 1, ["tokenizer/a.json", "old.bin"]), uri)
    publish(made(str(tmp_path / "two"), 2, ["tokenizer/b.json"]), uri)
    assert files_of(uri) == [INFO, "model.safetensors", "tokenizer/b.json"]
    info = storage.read_json(storage.join(uri, INFO))
    assert info["number"] == 2
    assert all(storage.sha256(storage.join(uri, name)) == checksum for name, checksum in info["files"].items())
    assert storage.list_names(place) == (["export"] if "://" in place else ["export", "one", "two"])


def test_who_reads_meanwhile_finds_an_export_json(place, tmp_path):
    """And one whose weights don't fit it is told by their checksum."""
    uri = storage.join(place, "export")
    folders = [made(str(tmp_path / str(number)), number) for number in range(12)]
    publish(folders[0], uri)
    done = threading.Event()

    def write():
        for folder in folders[1:]:
            publish(folder, uri)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    found, gone = set(), 0
    while not done.is_set():
        try:
            found.add(storage.read_json(storage.join(uri, INFO))["number"])
        except InputError:
            gone += 1
    writer.join()
    assert found
    assert gone == 0 or "://" not in place  # locally there is a moment between two renames


def test_a_copy_that_fails_leaves_what_was_there(tmp_path):
    uri = str(tmp_path / "export")
    publish(made(str(tmp_path / "one"), 1), uri)
    with pytest.raises(InputError):
        publish(str(tmp_path / "nothing"), uri)
    assert storage.read_json(os.path.join(uri, INFO))["number"] == 1
    assert sorted(os.listdir(tmp_path)) == ["export", "one"]
