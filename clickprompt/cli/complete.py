"""What the shell offers for an option's value, after `clickprompt --install-completion`."""

import glob
import re
from typing import Any

__all__ = ["config_files", "keys", "settings", "splits"]


def config_files(incomplete: str) -> list[str]:
    """Return presets and YAML files whose names begin so."""
    from clickprompt.config import preset_names

    names = [name for name in preset_names() if name.startswith(incomplete)]
    return names + sorted(glob.glob(f"{glob.escape(incomplete)}*.y*ml"))


def keys(incomplete: str) -> list[str]:
    """Return sections and configuration keys that begin so."""
    from clickprompt.config import Config
    from clickprompt.config.describe import dotted_keys

    return [key for key in dotted_keys(Config) if key.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """Return `key=` for every key that begins so; of a single one the words that it takes, or nothing and
    its default: with two offers, a shell adds no space behind the `=`.
    """
    from clickprompt.config import Config
    from clickprompt.config.reference import entries

    found = [entry for entry in entries(Config) if entry["key"].startswith(incomplete.partition("=")[0])]
    if len(found) != 1:
        return [f"{entry['key']}=" for entry in found]
    [entry] = found
    offered = [f"{entry['key']}={value}" for value in entry["allowed"] or ["", _plain(entry["default"])]]
    return [text for text in dict.fromkeys(offered) if text.startswith(incomplete)]


def splits(incomplete: str) -> list[str]:
    """Return the splits that begin so."""
    from clickprompt.config import SPLITS

    return [split for split in SPLITS if split.startswith(incomplete)]


def _plain(default: Any) -> str:
    """Return a default as a shell takes it without quotes, or nothing."""
    text = "null" if default is None else str(default)
    return text if re.fullmatch(r"[\w./-]+", text) else ""
