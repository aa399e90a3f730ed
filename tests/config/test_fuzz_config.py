"""Configurations that something happened to: what is meant, or one line for people; never a traceback.

`CLICKPROMPT_FUZZ_EXAMPLES=20000 pytest tests/config/test_fuzz_config.py` looks longer.
"""

import copy

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickprompt.config import Config, dump_config, load_config
from clickprompt.errors import InputError
from tests.support.damaged import EXAMPLES, changed, damaged

FUZZ = settings(
    max_examples=max(EXAMPLES // 3, 1),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
WHOLE = yaml.safe_load(dump_config(Config()))
KEYS = [f"{part}.{key}" for part, below in WHOLE.items() if isinstance(below, dict) for key in below]
TEXTS = ["[", "{a: 1}", "null", "1e400", ".nan", "*x", "!!python/name:os.system", "0x10", "~", "2024-99-99"]


def read(path, overrides) -> Config | None:
    """The configuration; None if it is refused."""
    try:
        return load_config(path, overrides)
    except InputError as error:
        said = str(error)
    assert "\n" not in said
    return None


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
    if config := read(str(path), []):
        path.write_text(dump_config(config))
        assert load_config(str(path), []) == config


@FUZZ
@given(key=st.sampled_from(KEYS), text=st.one_of(st.text(max_size=20), st.sampled_from(TEXTS)))
def test_an_override_is_taken_or_refused(key, text):
    if config := read(None, [f"{key}={text}"]):
        assert config == load_config(None, [f"{key}={text}"])
