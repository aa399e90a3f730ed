"""`clickprompt presets` and `clickprompt config`: what docs/config.md says, in a terminal."""

import json

import pytest

from clickprompt.cli.main import main
from clickprompt.config import Config, preset_names
from clickprompt.config.reference import config_reference, entries, presets
from tests.support.commands import fails


def printed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    output = capsys.readouterr()
    assert (stopped.value.code, output.err) == (0, "")
    return output.out


def test_presets(capsys):
    text = printed(capsys, "presets")
    assert [line for line in text.splitlines() if not line.startswith(" ")] == preset_names()
    assert max(map(len, text.splitlines())) <= 80
    found = json.loads(printed(capsys, "presets", "--json"))["presets"]
    assert {each["preset"]: each["comment"] for each in found} == presets()
    for each in found:
        assert each["comment"].startswith(each["description"])
        assert each["description"].endswith((".", "?")) or each["description"] == each["comment"]
        assert " ".join(each["description"].split()) in " ".join(text.split())


def test_without_a_key_the_sections_and_what_is_beside_them(capsys):
    found = json.loads(printed(capsys, "config", "--json"))
    assert [each["key"] for each in found["keys"]] == ["seed", "baseline"]
    assert "pretrain.lr" in [each["section"] for each in found["sections"]]
    assert all(each["meaning"] for each in found["sections"])
    assert "clickprompt config SECTION" in printed(capsys, "config")


def test_a_key(capsys):
    assert printed(capsys, "config", "prompt.num_prompts", "runtime.engine") == (
        "prompt.num_prompts\n    K, the number of prompts per layer; 0: no prompts\n"
        "    whole number ≥ 0; default: 5\n"
        "runtime.engine\n    torch: plain DistributedDataParallel; deepspeed: ZeRO, which one worker\n"
        "    uses for `offload` only\n"
        "    torch, deepspeed; default: torch\n"
    )
    [entry] = json.loads(printed(capsys, "config", "plm.pooling", "--json"))["keys"]
    assert (entry["key"], entry["default"]) == ("plm.pooling", None)
    assert entry["allowed"] == ["cls", "mean", "last", "null"]


def test_a_section_has_the_keys_of_those_below_it(capsys):
    found = json.loads(printed(capsys, "config", "finetune", "--json"))
    assert [each["section"] for each in found["sections"]] == ["finetune", "finetune.lr"]
    keys = [each["key"] for each in found["keys"]]
    assert {"finetune.epochs", "finetune.lr.plm"} <= set(keys)
    assert all(key.startswith("finetune.") for key in keys)


def test_every_key_says_what_the_reference_says(capsys):
    reference = config_reference()
    for entry in entries(Config):
        text = printed(capsys, "config", entry["key"])
        assert text.startswith(f"{entry['key']}\n")
        assert " ".join(entry["meaning"].split()) in " ".join(text.split())
        assert f"| `{entry['key']}` |" in reference
        assert entry["meaning"].replace("|", "\\|") in reference
    json.dumps(entries(Config))


def test_an_unknown_key_names_the_nearest(capsys):
    assert fails(capsys, "config", "prompt.num_promts") == (
        "error: unknown config key prompt.num_promts; the nearest known key is prompt.num_prompts"
    )
    line = fails(capsys, "config", "seeed", "seed", "pretrain.lr.pml")
    assert "2 mistakes: " in line
    assert "seeed; the nearest known key is seed;" in line
    assert line.endswith("the nearest known key is pretrain.lr.plm")
