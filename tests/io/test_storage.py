import errno
import hashlib
import os
import time
from pathlib import Path

import pytest

from clickprompt.data.sources.finding import find_files
from clickprompt.data.sources.formats import FileFormat
from clickprompt.errors import InputError
from clickprompt.io import storage


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_bytes_come_back(place):
    uri = storage.join(place, "a", "b.bin")
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")  # replaces
    assert storage.read_bytes(uri) == b"two"
    assert storage.list_names(place) == ["a"]
    assert storage.list_names(storage.join(place, "a")) == ["b.bin"]
    with storage.open_input(uri) as stream:
        assert stream.read(2) == b"tw"


@pytest.mark.parametrize("name", ["a.csv.gz", "a.zst", "a.bz2"])
def test_bytes_are_not_packed_for_their_name(place, name):
    uri = storage.join(place, name)
    storage.write_bytes(uri, b"content")
    assert storage.read_bytes(uri) == b"content"


def test_a_local_path_may_be_a_uri(tmp_path):
    storage.write_bytes(str(tmp_path / "a"), b"one")
    assert storage.read_bytes(f"file://{tmp_path}/a") == b"one"
    assert names_below(tmp_path) == ["a"]


def test_json_comes_back(place):
    uri = storage.join(place, "a.json")
    storage.write_json(uri, {"b": [1, 0.5, None], "a": "ü"})
    assert storage.read_json(uri) == {"b": [1, 0.5, None], "a": "ü"}
    first = storage.read_bytes(uri)
    storage.write_json(uri, {"a": "ü", "b": [1, 0.5, None]})
    assert storage.read_bytes(uri) == first  # the same value gives the same bytes


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b""])
def test_damaged_json_is_named(tmp_path, content):
    uri = str(tmp_path / "a.json")
    storage.write_bytes(uri, content)
    with pytest.raises(InputError, match=r"a\.json: not valid JSON .*make it again"):
        storage.read_json(uri)


def test_sha256_reads_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_COPY_CHUNK", 3)
    uri = str(tmp_path / "a")
    storage.write_bytes(uri, b"0123456789")
    assert (
        storage.sha256(uri)
        == storage.sha256_bytes(b"0123456789")
        == hashlib.sha256(b"0123456789").hexdigest()
    )


def test_join_and_resolve(tmp_path, monkeypatch):
    assert storage.join("s3://bucket/run/", "export", "a.json") == "s3://bucket/run/export/a.json"
    monkeypatch.chdir(tmp_path)
    assert storage.resolve("a/b")[1] == str(tmp_path / "a" / "b")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.resolve("~/a")[1] == str(tmp_path / "a")
    assert storage.is_local("a")
    assert storage.is_local(f"file://{tmp_path}")
    assert not storage.is_local("mock:///a")


def test_list_and_exists(place):
    for name in ("b", "a/c", "a/d/e"):
        storage.write_bytes(storage.join(place, name), b"x")
    assert storage.list_names(place) == ["a", "b"]
    assert storage.list_names(storage.join(place, "a")) == ["c", "d"]
    assert storage.list_names(storage.join(place, "missing")) == []
    for name in ("a", "a/", "a/d", "b", "a/c"):
        assert storage.exists(storage.join(place, name)), name
    for name in ("missing", "b/below-a-file", "bb", "a/dd"):
        assert not storage.exists(storage.join(place, name)), name


@pytest.mark.parametrize("name", ["with blank", "ü", "50%25", "a=1", "what?", "[1]", "a+b", "#1"])
def test_names_are_taken_as_they_are_written(place, name):
    uri = storage.join(place, name, f"{name}.bin")
    storage.write_bytes(uri, name.encode())
    assert storage.read_bytes(uri) == name.encode()
    assert storage.list_names(place) == [name]
    assert storage.list_names(storage.join(place, name)) == [f"{name}.bin"]


def test_copy_and_delete_a_folder(place):
    storage.write_bytes(storage.join(place, "a", "x", "1"), b"one")
    storage.copy_tree(storage.join(place, "a"), storage.join(place, "b", "c"))
    assert storage.read_bytes(storage.join(place, "b", "c", "x", "1")) == b"one"
    storage.delete_tree(storage.join(place, "b"))
    storage.delete_tree(storage.join(place, "b"))  # nothing left to do
    assert storage.list_names(place) == ["a"]
    assert storage.list_names(storage.join(place, "a", "x")) == ["1"]
    storage.delete_tree(storage.join(place, "a", "x"))
    assert not storage.exists(storage.join(place, "a", "x"))
    with pytest.raises(InputError, match="x: no such folder"):
        storage.copy_tree(storage.join(place, "a", "x"), storage.join(place, "d"))
    assert "d" not in storage.list_names(place)


def test_a_file_that_is_uploaded_in_parts(tmp_path, bucket):
    content = os.urandom(11 << 20)
    storage.write_bytes(f"{bucket}/a/large", content)
    storage.copy_tree(f"{bucket}/a", str(tmp_path / "a"))
    assert (tmp_path / "a" / "large").read_bytes() == content


def test_move_a_folder(tmp_path):
    storage.write_bytes(str(tmp_path / "a" / "x" / "1"), b"one")
    storage.move(str(tmp_path / "a"), str(tmp_path / "d"))
    assert names_below(tmp_path) == ["d", "d/x", "d/x/1"]


def test_local_copy_of_a_local_folder_is_the_folder(tmp_path):
    with storage.local_copy(f"file://{tmp_path}") as folder:
        assert folder == str(tmp_path)
    assert tmp_path.exists()


def test_local_copy_of_a_remote_folder_lasts_as_long_as_it_is_used(tmp_path, bucket):
    storage.write_bytes(f"{bucket}/run/export/x/1", b"one")
    with storage.local_copy(f"{bucket}/run/export") as folder:
        assert not folder.startswith(str(tmp_path))
        assert storage.read_bytes(storage.join(folder, "x", "1")) == b"one"
    assert not storage.exists(folder)


@pytest.mark.parametrize(
    "uri",
    [
        "http://host/file",
        "s3:///no-bucket",
        "nothing://x",
        "a\0b",
        "file:///a%00b",
        "a\udcff",
        "file:///%ff",
    ],
)
def test_an_unknown_address_is_refused(uri):
    with pytest.raises(InputError, match=r"can't be opened .* give a local path, s3://"):
        storage.resolve(uri)


@pytest.mark.parametrize(
    "read", [storage.list_names, storage.list_files, lambda uri: find_files(uri, FileFormat())]
)
def test_a_file_whose_name_is_no_text_is_named(tmp_path, read):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.csv", "w"):
        pass
    with pytest.raises(InputError, match=r"caf\\xe9.*isn't UTF-8; rename it"):
        read(str(tmp_path))


@pytest.mark.parametrize("uri", ["s3://KEY:SECRET@bucket/a", "s3://KEY@bucket", "s3://:SECRET@bucket/a"])
def test_a_key_in_an_address_is_refused_and_not_shown(uri):
    with pytest.raises(InputError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") as caught:
        storage.resolve(uri)
    assert "SECRET@" not in str(caught.value)
    assert "KEY@" not in str(caught.value)


def test_options_in_an_address_are_refused():
    with pytest.raises(InputError, match=r"options come from the environment: AWS_ENDPOINT_URL, AWS_REGION"):
        storage.resolve("s3://bucket/a?endpoint_override=localhost:9000")


def test_the_server_for_s3_alone_goes_before_the_one_for_everything(monkeypatch, bucket):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    storage.write_bytes(f"{bucket}/a", b"one")
    assert storage.read_bytes(f"{bucket}/a") == b"one"


@pytest.mark.parametrize("read", [storage.read_bytes, storage.read_json, storage.sha256, storage.open_input])
def test_reading_what_is_not_in_a_bucket(bucket, read):
    with pytest.raises(InputError, match="missing: no such file or folder; check the path"):
        read(f"{bucket}/missing")
    with pytest.raises(InputError, match="missing: no such file or folder; check the path"):
        read(f"{bucket}-that-is-none/missing")


def test_a_missing_bucket_is_named(bucket):
    missing = f"{bucket}-that-is-none"
    assert not storage.exists(missing)
    assert storage.list_names(missing) == []
    storage.delete_tree(missing)
    with pytest.raises(InputError, match=f"{missing}/a: .*bucket"):
        storage.write_bytes(f"{missing}/a", b"one")


def test_a_server_that_does_not_answer_is_one_line_soon(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(InputError, match="s3://bucket/a: ") as caught:
        storage.read_bytes("s3://bucket/a")
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [storage.read_bytes, storage.read_json, storage.sha256, storage.open_input])
def test_reading_what_is_not_there(tmp_path, read):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="missing: no such file or folder; check the path"):
        read(str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"Not a directory|not a directory"):
        read(str(tmp_path / "file" / "below"))
    with pytest.raises(InputError, match="is a directory"):
        read(str(tmp_path))


def test_listing_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file: "):
        storage.list_names(str(tmp_path / "file"))


@pytest.mark.parametrize("below", ["file/a", "file/a/b"])
def test_a_target_below_a_file_is_refused_and_leaves_nothing(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=f"{below}: .*check that the place exists"):
        storage.write_bytes(str(tmp_path / below), b"x")
    assert names_below(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_or_device_is_never_replaced_by_a_file(tmp_path):
    with pytest.raises(InputError, match="a folder or device, not a file"):
        storage.write_bytes(str(tmp_path), b"x")
    fifo = tmp_path / "fifo"  # stands for /dev/null, which renaming would replace when the user is root
    os.mkfifo(fifo)
    with pytest.raises(InputError, match="a folder or device, not a file"):
        storage.write_bytes(str(fifo), b"x")
    assert fifo.is_fifo()
    assert names_below(tmp_path) == ["fifo"]


@pytest.mark.parametrize("failing", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch, failing):
    target = tmp_path / "a.json"
    storage.write_bytes(str(target), b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing == "write":
        import resource  # a file-size limit makes the kernel itself refuse the write in the middle
        import signal

        before, handler = (
            resource.getrlimit(resource.RLIMIT_FSIZE),
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    else:
        monkeypatch.setattr(os, "fsync" if failing == "fsync" else "replace", full)
    try:
        with pytest.raises(InputError, match=r"a\.json: .*(File too large|No space left).*has space left"):
            storage.write_bytes(str(target), b"new" * 10_000)
    finally:
        if failing == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
    assert names_below(tmp_path) == ["a.json"]
    assert target.read_bytes() == b"old"


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(str(tmp_path / "a"), b"x")
    assert names_below(tmp_path) == []


def test_copying_or_moving_a_missing_folder_names_it_and_makes_nothing(tmp_path):
    with pytest.raises(InputError, match="missing: no such folder"):
        storage.copy_tree(str(tmp_path / "missing"), str(tmp_path / "target"))
    with pytest.raises(InputError, match=r"missing → .*target: no such file or folder"):
        storage.move(str(tmp_path / "missing"), str(tmp_path / "target"))
    assert names_below(tmp_path) == []


def test_copying_below_a_file_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file/target: .*check that the place exists"):
        storage.copy_tree(str(tmp_path / "a"), str(tmp_path / "file" / "target"))
