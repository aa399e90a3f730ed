"""Objectives with tiny models, and a batch for each: pretraining and finetuning, with their options."""

from clickprompt.config import replaced
from tests.support.engines import build
from tests.support.tiny import CLICK_WORDS, tiny_config, write_both, write_plm

CASES = {
    "pretrain": ("pretrain", {}),
    "pretrain, whole last layer": ("pretrain", {"plm.last_layer": "full"}),
    "pretrain, no prompts": ("pretrain", {"prompt.num_prompts": 0}),
    "pretrain, plain PLM": ("pretrain", {"prompt.num_prompts": 0, "plm.last_layer": "full"}),
    "pretrain, input prompts": ("pretrain", {"prompt.prompt_depth": "input", "plm.last_layer": "full"}),
    "pretrain, eager": ("pretrain", {"plm.attn_implementation": "eager"}),
    "pretrain, recomputed": ("pretrain", {"plm.gradient_checkpointing": True}),
    "pretrain, clicks": ("pretrain", {"plm.click_text": True, "masking.vocabulary": "dataset"}),
    "pretrain, gpt2": ("pretrain", {"plm": "gpt2"}),
    "pretrain, plain gpt2": ("pretrain", {"plm": "gpt2", "prompt.num_prompts": 0}),
    "pretrain, bart": ("pretrain", {"plm": "bart"}),
    "ids and text": (
        "pretrain",
        {
            "masking.hide_ids": 0.5,
            "pretrain.id_objective": "masked",
            "pretrain.text_id_weight": 2.0,
            "pretrain.id_candidates": 4,
        },
    ),
    "replaced ids": ("pretrain_ids", {"pretrain.with_plm": False, "pretrain.id_objective": "replaced"}),
    "masked ids": (
        "pretrain_ids",
        {"pretrain.with_plm": False, "pretrain.id_objective": "masked", "pretrain.id_candidates": 4},
    ),
    "with PLM": ("with_plm", {}),
    "with PLM, mean": ("with_plm", {"plm.pooling": "mean"}),
    "with PLM, clicks": ("with_plm", {"plm.click_text": True}),
    "with PLM, gpt2": ("with_plm", {"plm": "gpt2"}),
    "without PLM": ("without_plm", {}),
}
"""name → (objective, settings)"""


def config_of_cases(folder):
    dataset, plm = write_both(str(folder / "bert"), more_words=CLICK_WORDS)
    for family in ("gpt2", "bart"):
        write_plm(str(folder / family), family, more_words=CLICK_WORDS)
    return tiny_config(dataset.uri, plm)


def objective_and_batch(config, name, changes, width_multiple=1):
    changes = dict(changes)
    if "plm" in changes:
        changes["plm.path"] = config.plm.path.replace("bert/plm", changes.pop("plm"))
    dataset, _, objective, collator, _ = build(replaced(config, changes), name, "torch", 1)
    if width_multiple > 1:  # also past the longest text: these rows have it
        collator.token_table = collator.token_table.with_widths(width_multiple)
        collator.token_table.meta["max_length"] = 60
    rows = dataset.read_split("train").slice(0, 12)
    columns = {column: rows[column].to_numpy() for column in rows.column_names}
    # The last row is padding
    return objective.train(), collator(columns | {"weight": (rows["row_id"].to_numpy() != 11).astype("f4")})
