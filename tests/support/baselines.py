"""Settings of each baseline for the tiny PLM, as its checks want them."""

SETTINGS = {
    "ptab": {"baseline": "ptab", "prompt.num_prompts": 0},
}


def dotted(name: str) -> dict[str, object]:
    """The same for `tiny_config`."""
    return {key.replace(".", "__"): value for key, value in SETTINGS[name].items()}
