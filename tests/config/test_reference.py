"""docs/config.md is what the models say."""

from pathlib import Path

from pydantic import BaseModel

from clickprompt.config import Config, preset_names
from clickprompt.config.reference import config_reference

REFERENCE = Path(__file__).parents[2] / "docs" / "config.md"


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        section = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += keys(kind, f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return found


def test_it_is_current():
    assert REFERENCE.read_text() == config_reference(), "docs/config.md is old; run make docs"


def test_every_key_and_preset_is_in_it():
    text = config_reference()
    for key in keys(Config):
        assert f"| `{key}` |" in text, key
    assert all(f"| `{name}` |" in text for name in preset_names())


def test_a_row_says_type_bounds_default_and_meaning():
    text = config_reference()
    assert "| `prompt.num_prompts` | whole number ≥ 0 | `5` | K, the number of prompts per layer" in text
    assert "| `data.version` | whole number ≥ 1 or null | null |" in text
    assert "| `ctr.structure` | `parallel`, `stacked` | `parallel` |" in text
    assert "| `tune.seeds` | list: whole number ≥ 0 | `[]` |" in text
    assert "| `runtime.num_workers` | whole number or [whole number, whole number] | `1` |" in text
