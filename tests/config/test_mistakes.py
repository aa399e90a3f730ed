"""What a wrong configuration is told: every mistake at once, in words of its keys, and of no library."""

import re
from typing import Any

import pytest
from pydantic import BaseModel

from clickprompt.benchmark.faults.settings import FaultsConfig
from clickprompt.config import Config, stored_config
from clickprompt.config.describe import dotted_keys, leaves, sections
from clickprompt.config.mistakes import validated
from clickprompt.errors import ConfigError
from tests.support.words import PYDANTIC

WRONG: list[Any] = [
    *("no-such-word", "", -1, 0, 1.5, 10**12, float("nan"), float("inf"), True, None),
    *([], [None], ["x"], [[1]], [1, "x"], {}, {3: 4}, {"low": 1}),
    *({"a": {"low": 1, "high": "x"}}, {"a": {"lwo": 1}}, {"a": {"low": 2, "high": 1}}, {"a": 3}, {"a": []}),
]
LEAVES = [
    *(key for key, _ in leaves(Config)),
    *(key for name, model in sections(Config) for key, _ in leaves(model, f"{name}.")),
]


def nested(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def told(model: type[BaseModel], values: dict[Any, Any]) -> str | None:
    try:
        validated(model, values)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("key", dotted_keys(Config))
def test_no_value_of_any_key_is_refused_in_words_of_pydantic(key):
    refused = [said for value in WRONG if (said := told(Config, nested(key, value)))]
    assert refused
    for said in refused:
        assert not PYDANTIC.search(said), said
        assert "\n" not in said
        assert key in said or key.rpartition(".")[0] in said


@pytest.mark.parametrize("key", LEAVES)
def test_a_value_of_another_type_is_told_what_to_give(key):
    said = told(Config, nested(key, {"no": "such"}))
    assert said is not None
    assert re.match(rf"{re.escape(key)}(=\{{no: 'such'\}})?: .*\bgive ", said), said


def test_all_keys_at_once():
    values: dict[str, Any] = {}
    for key in LEAVES:
        *above, last = key.split(".")
        below = values
        for name in above:
            below = below.setdefault(name, {})
        below[last] = {"no": "such"}
        below[f"{last}_"] = 1
    said = told(Config, values)
    assert said is not None
    assert said.startswith(f"{2 * len(LEAVES)} mistakes: (1) ")
    for key in LEAVES:
        assert f"unknown config key {key}_; the nearest known key is {key};" in said
        assert f") {key}={{no: 'such'}}: give " in said or f") {key}: " in said


def test_a_section_below_another_model_s_key():
    said = told(FaultsConfig, {"training": {"prompt": {"num_prompts": -1}, "promt": {}}, "kinds": ["walker"]})
    assert said is not None
    assert "unknown config key training.promt; the nearest known key is training.prompt" in said
    assert "training.prompt.num_prompts=-1: give a whole number ≥ 0" in said
    assert "kinds=['walker']: give a list" in said


def test_the_nearest_word_is_named():
    assert told(Config, {"runtime": {"engine": "deepsped"}}) == (
        "runtime.engine='deepsped': give torch or deepspeed; did you mean deepspeed?"
    )


def test_a_range_is_told_its_own_keys():
    space = {"seed": {"low": 1}, "ctr.dropout": {"low": 0, "high": 1, "hihg": 1}}
    assert told(Config, {"tune": {"search": "random", "space": space}}) == (
        "2 mistakes: (1) unknown config key tune.space.ctr.dropout.hihg; the nearest known key is high; "
        "(2) tune.space.seed.high is missing; give a number"
    )


def test_a_run_of_another_version_is_told_so_too():
    with pytest.raises(ConfigError, match=r"^unknown config key prompt\.k; the nearest known key is prompt"):
        stored_config({"prompt": {"k": 3}})
