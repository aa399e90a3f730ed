"""What a schema says of user, item and group decides whose figures `evaluate` gives."""

import numpy as np
import pyarrow as pa
import pytest
import yaml

from clickprompt.config import Config, EvaluateConfig, FinetuneConfig
from clickprompt.evaluation.figures import check_fields, split_figures
from clickprompt.evaluation.group_auc import gauc
from clickprompt.evaluation.ranking import ranking
from clickprompt.evaluation.significance import auc_interval, delong, user_bootstrap
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.train.rankable import group_column

SCHEMA = {
    "data": "log.csv",
    "fields": [
        {"name": "Page", "column": "page"},
        {"name": "Who", "column": "who"},
        {"name": "What", "column": "what"},
    ],
    "label": {"column": "y"},
    "user": "who",
    "item": "page",
}


@pytest.mark.parametrize(("group", "named"), [(None, None), ("request", "Page")])
def test_user_item_and_group_of_the_schema(tmp_path, group, named):
    rng = np.random.default_rng(0)
    lines = [
        f"p{rng.integers(3)},u{rng.integers(9)},i{rng.integers(40)},r{row // 4},{rng.integers(2)}\n"
        for row in range(400)
    ]
    (tmp_path / "log.csv").write_text("page,who,what,request,y\n" + "".join(lines))
    (tmp_path / "log.yaml").write_text(yaml.safe_dump(SCHEMA | ({"group": group} if group else {})))
    dataset = prepare(str(tmp_path / "log.yaml"), None, str(tmp_path / "d"), progress=lambda line: None)
    assert dataset.manifest["roles"] == {"user": "Who", "item": "Page"}
    assert check_fields(dataset, EvaluateConfig()) == (1, 0)
    assert check_fields(dataset, EvaluateConfig(user="What", item=named)) == (2, 0)

    rows = dataset.read_split("test").select(["row_id", "label"])
    logits = rng.normal(size=len(rows)).astype(np.float32)
    predictions = rows.append_column("logit", pa.array(logits)).sort_by("row_id")
    figures = split_figures(predictions, dataset, "test", EvaluateConfig())
    if group is None:
        assert not {"auc_by_request", "ranking_by_request"} & figures.keys()
        assert group_column(dataset, Config(), FinetuneConfig(loss="pairwise")) == dataset.columns[1]
        return
    requests = predictions["row_id"].to_numpy() // 4
    expected = gauc(requests, predictions["label"].to_numpy(), predictions["logit"].to_numpy())
    assert expected.users > 0
    assert figures["auc_by_request"] == expected._asdict()
    ranked = ranking(requests, predictions["label"].to_numpy(), predictions["logit"].to_numpy(), (1, 5, 10))
    assert figures["ranking_by_request"] == ranked._asdict()
    assert figures["ranking"] != ranked._asdict()
    finetune = FinetuneConfig(loss="pairwise")
    assert group_column(dataset, Config(), finetune) == "group"


@pytest.mark.parametrize(
    ("roles", "settings", "by"),
    [
        ({"user": "who"}, {}, "user"),
        ({}, {"user": "Who"}, "user"),
        ({"group": "request"}, {}, "request"),
        ({}, {}, "row"),
    ],
)
def test_what_intervals_are_by(tmp_path, roles, settings, by):
    """Without a user the first field, of two values here, is not one: two clusters make any difference
    significant.
    """
    rng = np.random.default_rng(3)
    lines = [
        f"p{rng.integers(2)},u{rng.integers(30)},i{rng.integers(40)},r{row // 4},{rng.integers(2)}\n"
        for row in range(1200)
    ]
    (tmp_path / "log.csv").write_text("page,who,what,request,y\n" + "".join(lines))
    schema = {key: value for key, value in SCHEMA.items() if key not in ("user", "item")} | roles
    (tmp_path / "log.yaml").write_text(yaml.safe_dump(schema))
    dataset = prepare(str(tmp_path / "log.yaml"), None, str(tmp_path / "d"), progress=lambda line: None)
    rows = dataset.read_split("test").sort_by("row_id")
    tables = [
        rows.select(["row_id", "label"]).append_column(
            "logit", pa.array(rng.normal(size=len(rows)).astype("f4"))
        )
        for _ in range(2)
    ]
    figures = split_figures(tables[0], dataset, "test", EvaluateConfig(**settings), tables[1])
    labels, logits, base = (
        rows["label"].to_numpy(),
        *(table["logit"].to_numpy() for table in tables),
    )
    clusters = {
        "user": lambda: rows[dataset.columns[1]].to_numpy(),
        "request": lambda: rows["row_id"].to_numpy() // 4,
        "row": lambda: np.arange(len(rows)),
    }[by]()
    assert figures["intervals_by"] == by
    assert figures["auc_interval"] == pytest.approx(auc_interval(clusters, labels, logits))
    against = figures["against"]
    assert against["delong"] == delong(labels, logits, base)._asdict()
    expected = user_bootstrap(clusters, labels, logits, base)._asdict() if by == "user" else None
    assert against["user_bootstrap"] == expected
