"""An export takes the place of an earlier one; what was there stays until all is copied."""

import contextlib
import os

import pytest

from clickprompt.errors import InputError
from clickprompt.export.format import INFO, publish
from clickprompt.io import storage


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
    info = storage.read_json(storage.join(uri, INFO))
    assert info["number"] == 2
    assert files_of(uri) == sorted([INFO, *info["files"]])
    assert "tokenizer/a.json" not in info["files"]
    assert all(
        storage.sha256(storage.join(uri, name)) == checksum for name, checksum in info["files"].items()
    )
    assert storage.list_names(place) == (["export"] if "://" in place else ["export", "one", "two"])


def test_a_copy_that_is_cut_off_leaves_what_was_there(place, tmp_path, monkeypatch):
    """At whatever file."""
    uri = storage.join(place, "export")
    publish(made(str(tmp_path / "one"), 1, ["tokenizer/a.json"]), uri)
    for number, written in enumerate(range(3), start=2):
        copies = iter(range(written))

        def copy(source, target, real=storage.copy_file, copies=copies):
            next(copies)
            real(source, target)

        with monkeypatch.context() as patch, contextlib.suppress(StopIteration):
            patch.setattr(storage, "copy_file", copy)
            publish(made(str(tmp_path / str(number)), number, ["tokenizer/a.json"]), uri)
        info = storage.read_json(storage.join(uri, INFO))
        assert info["number"] == (1 if "://" in place else number)
        assert all(
            storage.sha256(storage.join(uri, name)) == checksum for name, checksum in info["files"].items()
        )


def test_a_copy_that_fails_leaves_what_was_there(tmp_path):
    uri = str(tmp_path / "export")
    publish(made(str(tmp_path / "one"), 1), uri)
    with pytest.raises(InputError):
        publish(str(tmp_path / "nothing"), uri)
    assert storage.read_json(os.path.join(uri, INFO))["number"] == 1
    assert sorted(os.listdir(tmp_path)) == ["export", "one"]
