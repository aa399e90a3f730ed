"""What `explain` found about finetuned runs: what each field is worth, and single rows' logits by field."""

from collections.abc import Sequence
from typing import Any

from clickprompt.report.charts import Bar, Value
from clickprompt.report.dots import ladder
from clickprompt.report.page import Block, Section
from clickprompt.report.run import Run
from clickprompt.report.table import Column, Table, interval_of, signed
from clickprompt.report.training import legend

__all__ = ["explained"]


def explained(runs: Sequence[Run]) -> Section | None:
    members = [(run, run.explained) for run in runs if run.explained]
    if not members:
        return None
    intro = (
        "The AUC that is lost when a field's values are permuted among the rows, the mean of several "
        "permutations, with its 95% interval (bootstrap by user). Nothing is trained again. Fields that say "
        "the same, such as an item's id and its title, stand in for each other, so each seems worth less."
    )
    blocks = [_importance(members), *(_rows(run, of) for run, of in members if of.get("attributions"))]
    return Section("What each field is worth", intro, blocks)


def _importance(members: Sequence[tuple[Run, dict[str, Any]]]) -> Block:
    names = {name: of["fields"][name]["drop"] for _, of in reversed(members) for name in of["fields"]}
    rows, drawn = [], []
    for name in sorted(names, key=lambda name: -names[name]):
        values = []
        for run, of in members:
            if (field := of["fields"].get(name)) is None:
                continue
            ends = field["interval"]
            interval = (float(ends[0]), float(ends[1])) if ends else None
            rows.append([name, run.name, of["split"], field["drop"], interval])
            values.append(Value(run.number, field["drop"], signed(field["drop"]), interval, tip=run.name))
        drawn.append(Bar(name, values[0].shown, values))
    columns = [Column("permuted field"), Column("run"), Column("split"), Column("loss of AUC", signed)]
    table = Table([*columns, Column("95% interval", interval_of(signed), interval=True)], rows)
    title = "Loss of AUC by permuted field"
    return Block(
        title,
        table,
        lambda width: ladder(title, drawn, width, base=0.0, axis="loss of AUC"),
        legend=legend([run for run, _ in members]),
    )


def _rows(run: Run, found: dict[str, Any]) -> Block:
    of_rows = found["attributions"]
    rows = [
        [row["row_id"], row["label"], row["ctr_logit"], name, part["value"] or "unknown", part["attribution"]]
        for row in of_rows["rows"]
        for name, part in sorted(row["fields"].items(), key=lambda item: -abs(item[1]["attribution"]))
    ]
    columns = [Column("row"), Column("click"), Column("CTR logit", signed), Column("field"), Column("value")]
    note = (
        f"integrated gradients of the CTR logit from {signed(of_rows['baseline_logit'])}, that of a row of "
        "unknown values; a row's attributions and this sum to its logit"
    )
    table = Table([*columns, Column("attribution", signed)], rows)
    return Block(f"Rows by field: {run.name}", table, note=note, in_markdown=False, folded=True)
