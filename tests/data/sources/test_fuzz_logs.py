"""Files and schemas that something happened to: rows, or one line for people; never a traceback.

`CLICKPROMPT_FUZZ_EXAMPLES=20000 pytest tests/data/sources/test_fuzz_logs.py` looks longer.
"""

import os
import random
import shutil
import tempfile

import yaml
from hypothesis import given
from hypothesis import strategies as st

from clickprompt.data.sources.check import check_source
from clickprompt.data.sources.raw import Findings
from clickprompt.data.sources.registry import get_source
from tests.support.damaged import changed, damaged, fuzz, refused
from tests.support.random_logs import random_log


@fuzz()
@given(st.data())
def test_rows_or_one_line(data):
    draw = data.draw
    outside = tempfile.mkdtemp(prefix="fuzz-")
    folder = os.path.join(outside, "a", "b")  # so that ../.. isn't the whole machine, which takes minutes
    os.makedirs(folder)
    try:
        log = random_log(draw(st.integers(0, 400)), folder, prepared=False)
        for _ in range(draw(st.integers(0, 2))):
            with open(log.schema) as stream:
                schema = yaml.safe_load(stream)
            changed(schema, draw)
            with open(log.schema, "w") as stream:
                yaml.safe_dump(schema, stream, sort_keys=False, allow_unicode=True)
        if draw(st.booleans()):
            name = draw(st.sampled_from(sorted(os.listdir(folder))))
            with open(os.path.join(folder, name), "rb") as stream:
                content = damaged(stream.read(), draw)
            with open(os.path.join(folder, name), "wb") as stream:
                stream.write(content)
        before = contents(folder)
        refused(read_all, log.schema)
        assert contents(folder) == before
    finally:
        shutil.rmtree(outside)


def read_all(schema):
    source = get_source(schema, None)
    source.raw_files()
    source.tables()
    findings = Findings()
    for part in source.parts():
        for rows in source.read_part(part):
            assert {len(rows), *(len(column) for column in rows.values.values())} == {len(rows)}
            findings.merge(rows.findings)
    source.check_findings(findings)
    source.warnings(findings)
    check_source(source)


def contents(folder):
    found = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as stream:
            found[name] = stream.read()
    return found


def test_the_changes_are_not_all_refused():
    """Or nothing behind the schema would be looked at."""
    draw, fine = random.Random(0), 0
    for seed in range(20):
        folder = tempfile.mkdtemp(prefix="fuzz-")
        log = random_log(seed, folder, prepared=False)
        with open(log.schema) as stream:
            schema = yaml.safe_load(stream)
        draw.choice(schema["fields"])["min_count"] = 3
        with open(log.schema, "w") as stream:
            yaml.safe_dump(schema, stream, allow_unicode=True)
        read_all(log.schema)
        fine += 1
        shutil.rmtree(folder)
    assert fine == 20
