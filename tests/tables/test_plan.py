"""The plans of the tables: every row can be configured on every dataset, with as many tries as the others."""

import re

import pytest

from clickprompt.config import Config, load_config, replaced
from clickprompt.errors import InputError
from clickprompt.models.backbones import get_backbone
from clickprompt.models.baselines import check_baseline
from clickprompt.tables import plan
from clickprompt.tables.plan import BUDGETS, DATASETS, TABLES, Budget, PaperTable, Try, run_name, tries_of

ROWS = [(table, row) for table in TABLES for row in PaperTable.read(table).rows]
PLM = {"plm.path": "some/plm"}


def configured(row, budget="paper", dataset="movielens-1m", seed=0, given=None):
    return Try(0, {}).config(row, Budget.read(budget), dataset, seed, PLM, given or Config())


@pytest.mark.parametrize(
    ("table", "row"), ROWS, ids=[f"{table}-{'-'.join(row.names)}" for table, row in ROWS]
)
def test_every_row_has_a_configuration_on_every_dataset_with_every_budget(table, row):
    for budget in BUDGETS:
        for dataset in DATASETS:
            config = configured(row, budget, dataset)
            get_backbone(config.ctr.backbone)
            # ClickPrompt's rows name the stages that they have
            check_baseline(config, "pretrain" if row.pretrain else "finetune")
            alone = {"without-plm", "ctrl", "alone"} & set(row.parts)
            assert config.finetune.with_plm is (row.plm is not None and not alone)
            if row.pretrain:
                assert config.pretrain.with_plm is (row.plm is not None)


def test_every_part_is_known():
    parts, plms = plan._read("parts")["parts"], plan._read("budgets")["paper"]["plms"]
    assert {part for _, row in ROWS for part in row.parts} == {
        *parts,
        *(row.plm for _, row in ROWS if row.plm),
    }
    assert not parts.keys() & plms.keys()


@pytest.mark.parametrize("table", TABLES)
def test_names_are_unique_and_over_names_a_row(table):
    found = PaperTable.read(table)
    names = [row.names for row in found.rows]
    assert len(set(names)) == len(names)
    assert all(len(name) == len(found.columns) for name in names)
    assert all(row.over is None or row.over in names for row in found.rows)
    firsts = {name[0] for name in names}
    assert {*found.tested, *([found.improvement] if found.improvement else [])} <= firsts


def test_figures_are_the_papers():
    """AUC in percent and Rel.Impr of two rows, worked out from the page."""
    rows = {row.names: row.paper for row in PaperTable.read("table-2").rows}
    assert rows["DCNv2",]["movielens-1m"] == [0.8439, 0.3954]
    best, fm = rows["ClickPrompt with PLM",], rows["FM",]
    assert [round(100 * (best[data][0] / fm[data][0] - 1), 2) for data in fm] == [1.53, 2.02, 1.3, 1.85]


def test_appendix_b_settings():
    rows = {row.names[0]: row for row in PaperTable.read("table-2").rows}
    on_goodreads = configured(rows["DCNv2"], dataset="goodreads")
    assert (on_goodreads.ctr.hidden_dim, on_goodreads.ctr.num_layers) == (512, 6)
    assert (on_goodreads.ctr.embedding_dim, on_goodreads.finetune.global_batch_size) == (16, 4096)
    assert configured(rows["DeepFM"], dataset="bookcrossing").ctr.num_layers == 4
    assert configured(rows["DeepFM"]).ctr.num_layers == 6
    assert configured(rows["ClickPrompt with PLM"]).pretrain.epochs == 20


@pytest.mark.parametrize("number", [1, 3, 7])
def test_every_row_has_as_many_tries_that_differ(number):
    budget = Budget.read("paper", tries=number)
    for _, row in ROWS:
        tries = tries_of(row, budget, "movielens-1m")
        grid = 3 if "fm" in row.parts else 2 if "p5" in row.parts else 12  # nothing to vary but one key
        assert len(tries) == min(number, grid)
        assert tries[0].changes == {}
        configs = [one.config(row, budget, "movielens-1m", 0, PLM, Config()) for one in tries]
        stage = "finetune" if not row.pretrain else "pretrain"
        names = {
            (run_name(config, stage, "f"), run_name(config, "finetune", "f", run_name(config, stage, "f")))
            for config in configs
        }
        assert len(names) == len(tries)
        assert tries == tries_of(row, budget, "movielens-1m")


def test_more_tries_begin_with_the_fewer():
    row = PaperTable.read("table-2").rows[1]
    fewer, more = (tries_of(row, Budget.read("cpu", tries=number), "movielens-1m") for number in (2, 6))
    assert more[:2] == fewer


def test_a_run_is_named_by_what_decides_its_weights():
    row = PaperTable.read("table-2").rows[0]
    config = configured(row)

    def name(changes, fingerprint="f", stage="finetune", start=None):
        return run_name(replaced(config, changes), stage, fingerprint, start)

    same = [
        {"runtime.evaluation_actors": 2},
        {"data.path": "elsewhere"},
        {"plm.path": "another", "prompt.num_prompts": 1},  # it reads no text
        {"pretrain.epochs": 7},
        {"tune.max_points": 3},
    ]
    assert {name(changes) for changes in same} == {name({})}
    others = [
        name({"seed": 1}),
        name({"ctr.dropout": 0.1}),
        name({"finetune.epochs": 9}),
        name({}, fingerprint="g"),
        name({}, start="pretrain-0"),
        name({}, stage="pretrain"),
        name({"data.id_dropout": 0.1}),
    ]
    assert len({name({}), *others}) == len(others) + 1
    ranked = {"finetune.loss": "pairwise"}
    assert name(ranked) != name({**ranked, "evaluate.user": "Gender"})
    assert name({"evaluate.user": "Gender"}) == name({})
    with_click = {"plm.click_text": True, "plm.path": "some/plm"}
    assert (
        len({name({**with_click, "finetune.label_share": share}, stage="pretrain") for share in (0.1, 1)})
        == 2
    )
    assert re.fullmatch(r"finetune-[0-9a-f]{12}", name({}))


def test_tables_share_runs():
    """DCNv2 alone is a row of Tables 2, 3, 6, 8 and 9, and trained once."""
    rows = [row for _, row in ROWS if row.names[0] == "DCNv2" and row.parts == ("dcnv2", "alone")]
    assert len(rows) >= 4
    assert len({run_name(configured(row), "finetune", "f") for row in rows}) == 1


def test_what_the_user_sets_goes_before_all_else():
    row = next(row for _, row in ROWS if row.names == ("DCNv2",))
    given = load_config(None, ["ctr.num_layers=2", "finetune.patience=9"])
    config = configured(row, "cpu", given=given)
    assert (config.ctr.num_layers, config.finetune.patience) == (2, 9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PaperTable.read("table-1"), "table 'table-1' is unknown; known tables: table-2"),
        (lambda: Budget.read("huge"), "--budget huge: unknown; known budgets: smoke, cpu, gpu, paper"),
        (lambda: Budget.read("cpu", seeds=0), "--seeds 0: give a number from 1 up"),
        (lambda: Budget.read("cpu", tries=-1), "--tries -1: give a number from 1 up"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make()
