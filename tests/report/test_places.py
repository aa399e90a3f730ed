"""A report names no folder of the machine that made it."""

import base64
import html
import os
import re
import shutil

import pytest

from clickprompt.io import storage
from clickprompt.report.make import make_report
from clickprompt.report.places import Places
from clickprompt.report.run import read_runs


def texts(out):
    """The file's text, and all that its links download."""
    page = html.unescape(storage.read_bytes(out).decode())
    csvs = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    return [page, *(base64.b64decode(csv).decode(errors="replace") for csv in csvs)]


@pytest.mark.parametrize("where", ["", "{top}/report.html", "{far}/a/b/c/d/e/report.html"])
def test_no_absolute_folder_is_in_the_file(folders, dataset, tmp_path, where):
    top = os.path.dirname(folders["dcnv2-0"])
    out = where.format(top=top, far=tmp_path)
    runs = list(folders.values())
    result = make_report(runs, out or None)
    found = texts(result["report"])
    assert len(found) > 20
    for text in found:
        for folder in (*runs, top, dataset.uri, os.path.dirname(dataset.uri), str(tmp_path)):
            assert folder not in text
        assert not re.search(r"(?<![\w.:/<>'-])/(?:tmp|home|root|work|var|Users)/", text)
    os.remove(result["report"])


def test_nor_that_of_a_dataset_which_is_gone(folders, dataset, tmp_path):
    runs = [str(tmp_path / "with a space" / name) for name in ("one", "two")]
    for run, name in zip(runs, ("dcnv2-0", "prompted-0"), strict=True):
        shutil.copytree(folders[name], run)
        config = storage.read_bytes(f"{run}/config.yaml").decode().replace(dataset.uri, "/moved/far/away")
        storage.write_bytes(f"{run}/config.yaml", config.encode())
    result = make_report(runs)
    page = texts(result["report"])[0]
    assert "No bootstrap by user" in page
    assert "/moved" not in page
    assert str(tmp_path) not in page


def test_addresses_are_seen_from_the_report(folders):
    runs = read_runs([folders["dcnv2-0"], folders["pretrain"]], "test")
    top = os.path.dirname(folders["dcnv2-0"])
    places = Places(f"{top}/reports/r.html", runs, ["s3://bucket/deep/data"])
    assert places.of(folders["dcnv2-0"]) == "../dcnv2-0"
    assert places.of(f"{top}/reports") == "."
    assert places.of("/elsewhere/models/minilm-l6") == "…/models/minilm-l6"
    assert places.of("s3://bucket/deep/data") == "…/deep/data"
    assert places.text(
        f"{folders['pretrain']}/export: lost; see /var/log/x/y.txt, and/or a/b or / alone"
    ) == ("../pretrain/export: lost; see …/x/y.txt, and/or a/b or / alone")
    assert places.config("a: /b/c/d e\nb: [/x/y, 1e-3]\nc: a/b\nd: '|/|'\n") == (
        "a: …/c/d e\nb:\n- …/x/y\n- 1e-3\nc: a/b\nd: '|/|'\n"
    )
    in_bucket = Places("s3://bucket/runs/r.html", runs)
    assert in_bucket.of("s3://bucket/runs/one") == "one"
    assert in_bucket.of("s3://other/runs/one") == "…/runs/one"
