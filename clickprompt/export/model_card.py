"""The model card of an export: `README.md` in Hugging Face's format, YAML and then Markdown.

It says what the export, its dataset's manifest and the run's evaluations know, and leaves out the rest; of
addresses it has names only. Whoever publishes the model edits it (its license, for one), so the export's
checksums don't cover it, and an export without one is whole.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from clickprompt.config import CLICK, PRETRAINING, SPLITS, Config, History, stored_config, tasks_of
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.transform.instants import day_of
from clickprompt.evaluation.click_rate import click_rate_of
from clickprompt.export.format import INFO, weights_checksum
from clickprompt.io import storage

__all__ = ["CARD", "evaluations_of", "model_card", "write_card"]

CARD = "README.md"
_STAGES = {
    "pretrain": "pretrained (prompt-augmented language modelling); it has no click logit yet",
    "pretrain_ids": "pretrained on ids alone; it has no click logit yet",
    "with_plm": "finetuned, click logit of the CTR model and the language model",
    "without_plm": "finetuned, click logit of the CTR model alone",
}
_MUCH_UNSEEN = 0.01  # a share of rows


def write_card(uri: str, dataset: Dataset, evaluations: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Write the card of the export at `uri`, whole or not at all; evaluations: as in `model_card`."""
    card = model_card(storage.read_json(storage.join(uri, INFO)), dataset, evaluations or {})
    storage.write_bytes(storage.join(uri, CARD), card.encode())


def evaluations_of(export: str) -> dict[str, dict[str, Any]]:
    """Return what `evaluate` has left in the run around an export, by split, if it is of the same weights."""
    run, weights, found = os.path.dirname(export.rstrip("/")), weights_checksum(export), {}
    for split in SPLITS:
        path = storage.join(run, f"evaluation-{split}.json")
        if storage.exists(path) and (figures := storage.read_json(path)).get("weights") == weights:
            found[split] = figures
    return found


def model_card(info: dict[str, Any], dataset: Dataset, evaluations: Mapping[str, dict[str, Any]]) -> str:
    """Return the card of an export.

    info: its `export.json`; evaluations: of its weights, by split.
    """
    config = stored_config(info["config"])
    pretrained = info["objective"] in PRETRAINING
    backbone = _backbone(config)
    tags = [
        "ctr-prediction",
        "recommendation",
        "clickprompt",
        backbone,
        (info["plm"] or {}).get("model_type"),
    ]
    scored = [*_figures(info, evaluations)]
    front = {
        "library_name": "clickprompt",
        **({} if pretrained else {"pipeline_tag": "tabular-classification"}),
        "tags": [*dict.fromkeys(tag for tag in tags if tag)],
        **({"metrics": ["roc_auc", "log_loss"]} if scored else {}),
    }
    name = (
        backbone if config.baseline == "none" and backbone else config.baseline.replace("none", "ClickPrompt")
    )
    sections = [
        f"# {name} on {_log_name(dataset)}",
        "Made by clickprompt from what it knows of the training. What isn't known is left out.",
        *_section("Model", _model(info, config, dataset)),
        *_section("Data", _data(dataset)),
        *_section("Metrics", _metrics(info, dataset, evaluations)),
        *_section("How to use it", _use(info, dataset)),
        *_section("Limits", _limits(dataset, scored, pretrained=pretrained)),
    ]
    text = "\n\n".join(sections)
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{text}\n"


def _log_name(dataset: Dataset) -> str:
    """Return the known log's name; that of a user's own is but a checksum of its schema."""
    source = dataset.manifest["source"]
    return "a log that a YAML file describes" if source.startswith("table ") else f"`{source}`"


def _section(title: str, blocks: Sequence[str]) -> list[str]:
    return [f"## {title}", *blocks] if blocks else []


def _backbone(config: Config) -> str | None:
    """Return the CTR backbone, if there is a CTR model."""
    return config.ctr.backbone if config.baseline in ("none", "ctrl") else None


def _model(info: dict[str, Any], config: Config, dataset: Dataset) -> list[str]:
    lines = [f"- Stage: {_STAGES[info['objective']]}; {info['step']:,} steps, seed {config.seed}"]
    if config.baseline != "none":
        lines.append(f"- Baseline: `{config.baseline}`")
    if backbone := _backbone(config):
        lines.append(f"- CTR model: `{backbone}`, embeddings of {config.ctr.embedding_dim}")
        if (history := History.of(info.get("history"))) and config.ctr.history != "none":
            *names, last = history.names(info["field_names"]) or [""]
            known = f", with {', '.join(names)}{' and ' * bool(names)}{last} of each" if last else ""
            known += f" (`{config.ctr.history}`)"
            lines.append(f"- It reads the items of the user's last {history.length} rows{known}")
        if info.get("multi"):
            several = ", ".join(
                f"{info['field_names'][one['field']]} (up to {one['most']})" for one in info["multi"]
            )
            lines.append(f"- Fields of several values, pooled (`{config.ctr.pooling}`): {several}")
        if info.get("numbers") and config.ctr.numeric != "buckets":
            learned = ", ".join(info["field_names"][field] for field in info["numbers"])
            lines.append(f"- Fields whose numbers it embeds (`{config.ctr.numeric}`): {learned}")
        if dataset.vectors and config.ctr.vectors != "none":
            given = ", ".join(
                f"{info['field_names'][one['field']]} ({one['size']} numbers)" for one in dataset.vectors
            )
            lines.append(f"- Fields whose values have given vectors, of another model: {given}")
    if info["plm"]:
        path = (config.plm.path or "").rstrip("/")
        name = f" `{os.path.basename(path)}`," if path else ""
        drawn = ", weights drawn at random" if config.plm.random_init else ""
        lines.append(f"- Language model:{name} family `{info['plm']['model_type']}`{drawn}")
        if described := _described(dataset):
            lines.append(f"- Fields that it reads by descriptions of their values: {', '.join(described)}")
        prompts = config.prompt
        if config.baseline == "none" and prompts.num_prompts and _prompted(info, config):
            lines.append(f"- Soft prompts: {prompts.num_prompts} ({prompts.prompt_depth})")
    elif info["objective"] not in PRETRAINING:
        lines.append("- Language model: none")
    if config.data.rows == "new":
        lines.append("- Trained on the rows that the dataset's version added")
    stage = config.pretrain if info["objective"] in PRETRAINING else config.finetune
    if info.get("keep_negatives"):
        lines.append(
            f"- Of the training rows without a click {info['keep_negatives']:.4g} were kept, at random; its "
            "probabilities are those of all rows: p / (p + (1 − p) / this share)"
        )
    if stage.init:
        lines.append("- Started from an earlier clickprompt export")
    if info["objective"] not in PRETRAINING:
        labels = config.finetune.label_share
        lines.append(
            f"- Loss: `{config.finetune.loss}`" + (f", {labels:.0%} of the labels" if labels < 1 else "")
        )
        if tasks := _tasks(info, config):
            weights = {name: config.finetune.task_weights.get(name, 1.0) for name in (CLICK, *tasks)}
            weighed = ", ".join(f"`{name}` {weight:g}" for name, weight in weights.items())
            lines.append(f"- Tasks (`{config.ctr.tasks}`) and the weights of their losses: {weighed}")
    return ["\n".join(lines)]


def _described(dataset: Dataset) -> list[str]:
    """Return the fields whose values have descriptions in the text."""
    rules = (dataset.manifest.get("transform") or {}).get("fields") or ()
    return [rule["schema"]["name"] for rule in rules if rule["schema"].get("text")]


def _tasks(info: dict[str, Any], config: Config) -> tuple[str, ...]:
    """Return the labels that it learned beside the click."""
    return () if info["objective"] in PRETRAINING else tasks_of(config, info.get("labels") or ())


def _prompted(info: dict[str, Any], config: Config) -> bool:
    return info["objective"] in PRETRAINING or config.finetune.with_prompts


def _data(dataset: Dataset) -> list[str]:
    manifest = dataset.manifest
    counts, clicks, bounds = manifest["counts"], manifest.get("clicks") or {}, _dated(dataset)
    head = ["split", "rows", *(["click rate"] if clicks else []), *(["from", "to"] if bounds else [])]
    rows = []
    for split in SPLITS:
        line = [split, f"{counts[split]:,}"]
        line += [f"{clicks[split] / counts[split]:.1%}"] if clicks else []
        rows.append(line + ([day_of(moment) for moment in bounds[split]] if bounds else []))
    how = (manifest.get("options") or {}).get("split")
    split_by = f", split by {how}" if how else ""
    fields = [
        [field["name"], f"{field['size'] - 1:,}", *_share_unseen(field, counts, "test")]
        for field in manifest["fields"]
    ]
    unseen = ["unseen in test"] if all(len(field) == 3 for field in fields) else []
    return [
        f"{_log_name(dataset)}, version {dataset.version}{split_by}, "
        f"fingerprint `{dataset.fingerprint[:12]}`.",
        _table(head, rows),
        _table(["field", "values", *unseen], [field[: 2 + len(unseen)] for field in fields]),
        *_label_data(manifest),
    ]


def _label_data(manifest: Mapping[str, Any]) -> list[str]:
    """How often further labels are known in training, and positive."""
    rows = []
    for label in manifest.get("labels") or ():
        known, positive = label["known"]["train"], label["positive"]["train"]
        rows.append([label["name"], f"{known:,}", f"{positive / known:.1%}"])
    return [_table(["label", "training rows that have it", "positive"], rows)] if rows else []


def _dated(dataset: Dataset) -> dict[str, list[int]]:
    """Return the first and last time of each split, if the log has times."""
    bounds = dataset.manifest.get("bounds") or {}
    return bounds if len({moment for ends in bounds.values() for moment in ends}) > 1 else {}


def _share_unseen(field: dict[str, Any], counts: dict[str, int], split: str) -> list[str]:
    unseen = (field.get("unseen_in_train") or {}).get(split)
    return [] if unseen is None else [f"{unseen / counts[split]:.1%}"]


def _figures(
    info: dict[str, Any], evaluations: Mapping[str, dict[str, Any]]
) -> dict[str, tuple[float | None, tuple[float, float] | None, float]]:
    """Return (AUC, its interval, log loss) by split."""
    found = {split: (one["auc"], one["auc_interval"], one["log_loss"]) for split, one in evaluations.items()}
    if info.get("valid_log_loss") is not None:
        found.setdefault("valid", (info["valid_auc"], None, info["valid_log_loss"]))
    return {split: found[split] for split in SPLITS if split in found}


def _metrics(info: dict[str, Any], dataset: Dataset, evaluations: Mapping[str, dict[str, Any]]) -> list[str]:
    """AUC and log loss, and what log loss the click rate alone reaches."""
    found = _figures(info, evaluations)
    if not found:
        return []
    rows = []
    clicks = dataset.manifest.get("clicks")
    for split, (auc, interval, log_loss) in found.items():
        line = [split, "–" if auc is None else f"{auc:.4f}"]
        line += ["–" if interval is None else f"[{interval[0]:.4f}, {interval[1]:.4f}]", f"{log_loss:.4f}"]
        if clicks and (alone := click_rate_of(dataset.manifest, split)):
            line.append(f"{alone['log_loss']:.4f}")
        rows.append(line)
    head = ["split", "AUC", "95% interval", "log loss", *(["log loss of the click rate"] if clicks else [])]
    note = "Intervals take users as independent, not rows. The click rate alone has an AUC of 0.5."
    if info.get("valid_log_loss") is not None:
        note += " The validation split chose the step."
    return [_table(head, rows), note, *_label_metrics(info, evaluations)]


def _label_metrics(info: dict[str, Any], evaluations: Mapping[str, dict[str, Any]]) -> list[str]:
    """AUC and log loss of further labels, over the rows that have them."""
    found = {split: one["labels"] for split, one in evaluations.items() if one.get("labels")}
    if info.get("valid_labels"):
        found.setdefault("valid", info["valid_labels"])
    rows = [
        [
            name,
            split,
            *("–" if figures.get(key) is None else f"{figures[key]:.4f}" for key in ("auc", "log_loss")),
        ]
        for split in SPLITS
        for name, figures in found.get(split, {}).items()
    ]
    return [_table(["label", "split", "AUC", "log loss"], rows)] if rows else []


def _use(info: dict[str, Any], dataset: Dataset) -> list[str]:
    if info["objective"] in PRETRAINING:
        return _shell("clickprompt finetune --config run.yaml --set finetune.init=EXPORT --run RUN")
    serving = info.get("serving")
    if serving and serving["format"] != "safetensors":
        takes = (
            "the log's columns"
            if "inputs" in serving
            else "`field_ids` [rows, fields] by `vocab/`, 0: unknown"
        )
        model = next(name for name in info["files"] if name.startswith("model") and "." in name)
        more = "".join(f", `{name}`" for name in serving.get("outputs", ())[1:])
        said = "the sigmoid of it is the click probability"
        if more:
            said = "the sigmoid of each is a probability, of the click and of the label that it names"
        return [f"`{model}` takes {takes}, and gives `logit`{more} [rows]; {said}."]
    predict = "clickprompt predict --run EXPORT --rows rows.csv --out scores"
    if serving:
        return _shell("clickprompt serve --run EXPORT", f"{predict} --data DATASET")
    return _shell(predict, "clickprompt export --run EXPORT --out served && clickprompt serve --run served")


def _shell(*commands: str) -> list[str]:
    return ["\n".join(["```shell", *commands, "```"])]


def _limits(dataset: Dataset, scored: Sequence[str], *, pretrained: bool) -> list[str]:
    """scored: the splits with figures."""
    lines, counts = [], dataset.manifest["counts"]
    if bounds := _dated(dataset):
        lines.append(
            f"- The training rows end on {day_of(bounds['train'][1])}; it has learned nothing later."
        )
    shares = {
        field["name"]: unseen / counts["test"]
        for field in dataset.manifest["fields"]
        if (unseen := (field.get("unseen_in_train") or {}).get("test")) is not None
    }
    much = [f"{name} {share:.0%}" for name, share in shares.items() if share >= _MUCH_UNSEEN]
    if much:
        lines.append(f"- Test rows whose value no training row has: {', '.join(much)}.")
    if not pretrained and not scored:
        lines.append("- It wasn't scored on any split.")
    elif not pretrained:
        lines.append(
            f"- Scored on this log alone ({', '.join(scored)}): on no other log, and on no live traffic."
        )
    return ["\n".join(lines)] if lines else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
