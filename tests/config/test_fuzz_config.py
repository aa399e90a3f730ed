"""Configurations that something happened to: what is meant, or one line for people; never a traceback.

`CLICKPROMPT_FUZZ_EXAMPLES=20000 pytest tests/config/test_fuzz_config.py` looks longer.
"""

import copy

import yaml
from hypothesis import given
from hypothesis import strategies as st

from clickprompt.config import Config, dump_config, load_config
from tests.support.damaged import changed, damaged, fuzz, refused

FUZZ = fuzz(3)
WHOLE = yaml.safe_load(dump_config(Config()))
KEYS = [f"{part}.{key}" for part, below in WHOLE.items() if isinstance(below, dict) for key in below]
TEXTS = ["[", "{a: 1}", "null", "1e400", ".nan", "*x", "!!python/name:os.system", "0x10", "~", "2024-99-99"]


def check(file, overrides, path):
    """It is refused in one line, or what is written of it is read as the same."""
    if refused(load_config, file, overrides) is None:
        config = load_config(file, overrides)
        path.write_text(dump_config(config))
        assert load_config(str(path), []) == config


@FUZZ
@given(st.data())
def test_a_file_is_read_or_refused(tmp_path_factory, data):
    values = copy.deepcopy(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        if values:
            changed(values, data.draw)
    content = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode(errors="replace")
    if data.draw(st.integers(0, 3)) == 0:
        content = damaged(content, data.draw)
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content)
    check(str(path), [], path)


@FUZZ
@given(key=st.sampled_from(KEYS), text=st.one_of(st.text(max_size=20), st.sampled_from(TEXTS)))
def test_an_override_is_taken_or_refused(tmp_path_factory, key, text):
    check(None, [f"{key}={text}"], tmp_path_factory.getbasetemp() / "fuzzed.yaml")
