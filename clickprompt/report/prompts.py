"""What the PLM reads from the prompts (Table 7), and which masked values pretrained models restore."""

from collections.abc import Sequence
from typing import Any

from clickprompt.report.charts import Bar, Value, bars, heatmap
from clickprompt.report.page import Block, Section
from clickprompt.report.run import Run, finite
from clickprompt.report.table import Column, Table, auc, count, interval_of, percent, signed_percent
from clickprompt.report.training import legend

__all__ = ["attention", "recovery"]


def attention(runs: Sequence[Run]) -> Section | None:
    blocks = [
        block
        for run in runs
        if run.attention and run.attention.get("fields")
        for block in _attention_of(run, run.attention)
    ]
    intro = (
        "One field's text is masked; the masks are the queries. The attention on the K prompts is "
        "divided by its sum, so a row of a layer sums to 1; the share of all attention that goes to "
        "prompts is beside it."
    )
    return Section("Prompt attention", intro, blocks) if blocks else None


def _attention_of(run: Run, found: dict[str, Any]) -> list[Block]:
    fields = found["fields"]
    names = list(fields)
    first = fields[names[0]]
    prompts, layers = len(first["scores"]), len(first["layers"])
    numbers = [str(number) for number in range(1, prompts + 1)]
    of_run = f"{found.get('rows', 0):,} rows"
    scores = [fields[name]["scores"] for name in names]
    every = [[weight for layer in fields[name]["layers"] for weight in layer] for name in names]
    shares = [fields[name]["on_prompts"] for name in names]

    def two(value: float) -> str:
        return f"{value:.2f}"

    last_table = Table(
        [Column("masked field"), *(Column(f"prompt {n}", auc) for n in numbers)],
        [[n, *s] for n, s in zip(names, scores, strict=True)],
    )
    all_table = Table(
        [Column("masked field"), Column("layer", count), Column("prompt", count), Column("attention", auc)],
        [
            [name, layer + 1, prompt + 1, fields[name]["layers"][layer][prompt]]
            for name in names
            for layer in range(layers)
            for prompt in range(prompts)
        ],
    )
    groups = [(f"layer {layer + 1}", prompts) for layer in range(layers)]
    layer_names = [f"layer {layer + 1}" for layer in range(layers)]
    share_table = Table(
        [Column("masked field"), *(Column(n, percent) for n in layer_names)],
        [[n, *s] for n, s in zip(names, shares, strict=True)],
    )
    last, all_layers, on_prompts = (
        f"{what}: {run.name}" for what in ("Last layer", "All layers", "Attention on prompts at all")
    )
    blocks = [
        Block(
            last,
            last_table,
            lambda w: heatmap(last, names, numbers, scores, w, show=two),
            f"{of_run}; columns are the prompts (the paper's Table 7)",
        ),
        Block(
            on_prompts,
            share_table,
            lambda w: heatmap(
                on_prompts, names, [str(n + 1) for n in range(layers)], shares, w, show=percent
            ),
            f"{of_run}; columns are the layers",
        ),
    ]
    if layers > 1:
        blocks.append(
            Block(
                all_layers,
                all_table,
                lambda w: heatmap(all_layers, names, numbers * layers, every, w, show=two, groups=groups),
                f"{of_run}; columns are the prompts of each layer",
                in_markdown=False,
                full=True,
            )
        )
    return blocks


def recovery(runs: Sequence[Run]) -> Section | None:
    members = [run for run in runs if run.recovery and run.recovery.get("fields")]
    if not members:
        return None
    columns = [
        Column("masked values of"),
        Column("run"),
        Column("rows", count),
        Column("tokens", count),
        Column("own prompts", percent),
    ]
    columns += [Column("another row's", percent), Column("difference", signed_percent)]
    columns += [Column("95% interval", interval_of(signed_percent), interval=True)]
    rows, drawn = [], []
    for name in dict.fromkeys(name for run in members for name in (run.recovery or {})["fields"]):
        values = []
        for run in members:
            found = (run.recovery or {})["fields"].get(name)
            if not found:
                continue
            own, permuted = finite(found.get("own")), finite(found.get("permuted"))
            interval = tuple(found["interval"]) if found.get("interval") else None
            rows.append(
                [
                    name,
                    run.name,
                    found["rows"],
                    found["targets"],
                    own,
                    permuted,
                    finite(found.get("difference")),
                    interval,
                ]
            )
            for value, kind in ((own, "own prompts"), (permuted, "another row's prompts")):
                if value is not None:
                    pale = kind != "own prompts"
                    values.append(
                        Value(
                            run.number,
                            value,
                            percent(value),
                            pale=pale,
                            tip=f"{run.name}, {kind}: {percent(value)}",
                        )
                    )
        drawn.append(Bar(name, "", values))
    drawn = [bar for bar in drawn if bar.values]
    title = "Masked values restored"
    note = (
        "share of held-out rows' masked tokens; strong: with the row's own prompts, pale: with "
        "another row's. Intervals: over users"
    )
    chart = (lambda width: bars(title, drawn, width, base=0.0, axis="tokens restored")) if drawn else None
    return Section(
        "Recovery of masked values", blocks=[Block(title, Table(columns, rows), chart, note, legend(members))]
    )
