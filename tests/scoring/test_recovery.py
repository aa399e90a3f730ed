"""Masked-value recovery: against a loop over single rows, on models whose answers are known, and the figures
by hand.
"""

import copy

import numpy as np
import pyarrow as pa
import pytest
import torch

from clickprompt.cli.main import main
from clickprompt.config import replaced
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.masking import IGNORED, mask_tokens
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import DataError
from clickprompt.evaluation.recovery import (
    SCHEMA,
    compare_recovery,
    read_recovery,
    summarise_recovery,
    write_recovery,
)
from clickprompt.export.format import write_export
from clickprompt.io import storage
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.objectives import PretrainLoss
from clickprompt.scoring.recovery import MASK_RATE, Recovery, check_recoverable
from clickprompt.training.engine import weights_of
from tests.support.tiny import CLICK_WORDS, tiny_config, write_both


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A dataset, its token table and a model that knows some values, by its prompts and without."""
    dataset, plm = write_both(str(tmp_path_factory.mktemp("recovery")))
    table = TokenTable.open(dataset, load_tokenizer(plm))
    config = tiny_config(dataset.uri, plm, masking__mask_scope="field", ctr__embedding_dim=16)
    return dataset, table, config, trained(config, dataset, table)


def trained(config, dataset, table, steps=40) -> ClickPrompt:
    objective = PretrainLoss(build_model(config, layout_of(dataset), objective="pretrain"))
    with torch.no_grad():  # prompts differ between rows from the start, which spares most of the steps
        objective.model.ctr.embedding.weight.mul_(20)
        for parameter in objective.model.prompt_projector.parameters():
            parameter.mul_(5)
    rows = dataset.read_row_groups("train", [0, 1, 2])
    columns = {name: rows[name].to_numpy() for name in rows.column_names}
    collator = Collator(layout_of(dataset), table, config.masking)
    optimizer = torch.optim.Adam(objective.parameters(), lr=5e-3)
    for step in range(steps):
        batch = collator(columns, epoch=step)
        optimizer.zero_grad()
        (objective(batch) / objective.count_targets(batch)).backward()
        optimizer.step()
    return objective.model.eval()


def ordered(table: pa.Table) -> pa.Table:
    return table.sort_by([("row_id", "ascending"), ("field", "ascending")])


def masks(table, field_ids, row_ids):
    input_ids, attention_mask = table.assemble(field_ids)
    return attention_mask, *mask_tokens(
        input_ids,
        attention_mask,
        row_ids,
        seed=0,
        epoch=0,
        mask_rate=MASK_RATE,
        mask_id=table.mask_id,
        special_ids=table.special_ids,
        vocab_size=table.vocab_size,
        scope="field",
        value_fields=table.value_fields(field_ids),
        always_mask=True,
    )


def test_a_run_of_the_datasets_tokens_chooses_among_them(prepared, tmp_path):
    """Even where another token's logit is the largest."""
    dataset, table, config, model = prepared
    rows = dataset.read_row_groups("train", [0])
    text = Recovery(model, dataset, table, batch_size=8).score(rows)
    biased = copy.deepcopy(model)
    with torch.no_grad():
        others = np.setdiff1d(np.arange(table.vocab_size), table.vocabulary)
        biased.plm.lm_head.bias[torch.from_numpy(others)] += 100.0
    for vocabulary, hits in (("model", 0), ("dataset", sum(text["hits_own"].to_pylist()))):
        changed = replaced(config, {"masking.vocabulary": vocabulary})
        export = str(tmp_path / vocabulary)
        write(export, biased, changed, dataset)
        assert sum(Recovery.load(export, dataset).score(rows)["hits_own"].to_pylist()) == hits
    assert hits


def test_equals_a_loop_over_single_rows(prepared):
    dataset, table, _, model = prepared
    rows = dataset.read_row_groups("train", [0])
    lines = ordered(Recovery(model, dataset, table, batch_size=8).score(rows)).to_pylist()
    field_ids = np.stack([rows[column].to_numpy() for column in dataset.columns], axis=1)
    row_ids = rows["row_id"].to_numpy()
    for index, row_id in enumerate(row_ids):
        attention_mask, masked, labels = masks(
            table, field_ids[index : index + 1], row_ids[index : index + 1]
        )
        positions = np.flatnonzero(labels[0] != IGNORED)
        fields = table.value_fields(field_ids[index : index + 1])[0]
        mine = [line for line in lines if line["row_id"] == row_id]
        assert sorted(line["field"] for line in mine) == sorted(
            {dataset.field_names[fields[p]] for p in positions}
        )
        if not len(positions):
            continue
        hits = []  # [rows as givers of prompts, masked positions]
        for giver in field_ids:
            with torch.no_grad():
                prompts = model.prompt_projector(
                    model.ctr.interaction_vector(torch.from_numpy(giver[None]).long())
                )
                hidden = model.plm(torch.from_numpy(masked), torch.from_numpy(attention_mask), prompts)
                hits.append(
                    [int(model.plm.lm_logits(hidden[0, p]).argmax()) == labels[0, p] for p in positions]
                )
        of_line = [fields[positions] == dataset.field_names.index(line["field"]) for line in mine]
        counted = [[int(np.array(giver)[chosen].sum()) for chosen in of_line] for giver in hits]
        assert [line["hits_own"] for line in mine] == counted[index]
        permuted = [line["hits_permuted"] for line in mine]
        assert any(counts == permuted for giver, counts in enumerate(counted) if giver != index)
        for line in mine:
            field = dataset.field_names.index(line["field"])
            assert line["tokens"] == (fields[positions] == field).sum() == (fields == field).sum(), (
                "a whole value or nothing"
            )
            assert line["cluster"] == field_ids[index, 0]
    assert sum(line["hits_own"] for line in lines) > 10, "this model knows too little to test anything"
    assert sum(line["hits_own"] != line["hits_permuted"] for line in lines) > 10


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_neither_batches_nor_the_order_of_rows_matter(prepared, batch_size):
    dataset, table, _, model = prepared
    rows = dataset.read_row_groups("train", [1])
    expected = ordered(Recovery(model, dataset, table, batch_size=16).score(rows))
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))
    assert ordered(Recovery(model, dataset, table, batch_size=batch_size).score(shuffled)).equals(expected)


class KnowsItsPrompts(torch.nn.Module):
    """Reads the masked tokens off the ids that its CTR tower gets: prompts as good as prompts can be."""

    def __init__(self, table):
        super().__init__()
        self.table, self.prompt_projector = table, torch.nn.Identity()

    def masked_lm_logits(self, field_ids, masked_input_ids, attention_mask, target_mask, vocabulary=None):
        told, _ = self.table.assemble(field_ids.numpy())
        width = masked_input_ids.shape[1]
        told = np.pad(told, ((0, 0), (0, width)))[:, :width]
        return torch.nn.functional.one_hot(torch.from_numpy(told)[target_mask], self.table.vocab_size).float()


def test_prompts_that_decide_the_answer(prepared):
    """Own prompts recover every token; another row's as many as two rows have in common by chance."""
    dataset, table, _, _ = prepared
    rows = dataset.read_split("train")
    figures = summarise_recovery(Recovery(KnowsItsPrompts(table), dataset, table, batch_size=64).score(rows))
    assert sorted(figures) == sorted(dataset.field_names)
    for field in figures.values():
        assert field["own"] == 1
        assert field["rows"] == pytest.approx(MASK_RATE * len(rows), abs=4 * np.sqrt(MASK_RATE * len(rows)))
        low, high = field["interval"]
        assert low < field["difference"] == 1 - field["permuted"] < high
        assert field["ratio"] == pytest.approx(1 / field["permuted"])
    field_ids = np.stack([rows[column].to_numpy() for column in dataset.columns], axis=1)
    told, fields = table.assemble(field_ids)[0], table.value_fields(field_ids)
    _, _, labels = masks(table, field_ids, rows["row_id"].to_numpy())
    for index, name in enumerate(dataset.field_names):
        row, position = np.nonzero((labels != IGNORED) & (fields == index))
        chance = (told[:, position] == labels[row, position]).mean(
            axis=0
        )  # over every row that could give the prompts
        assert figures[name]["targets"] == len(row)
        assert figures[name]["permuted"] == pytest.approx(
            chance.mean(), abs=4 * np.sqrt((chance * (1 - chance)).sum()) / len(row)
        )
        assert figures[name]["permuted"] < 0.5


def test_constant_prompts_recover_the_same_wherever_they_come_from(prepared):
    dataset, table, config, model = prepared
    constant = build_model(config, layout_of(dataset), objective="pretrain")
    constant.load_state_dict(model.state_dict())
    with torch.no_grad():
        for parameter in constant.ctr.parameters():
            parameter.zero_()
    lines = Recovery(constant, dataset, table, batch_size=32).score(
        dataset.read_row_groups("train", [0, 1, 2])
    )
    assert lines["hits_own"].equals(lines["hits_permuted"])
    assert sum(lines["hits_own"].to_pylist()) > 0
    for field in summarise_recovery(lines).values():
        assert field["difference"] == 0
        assert field["interval"] == (0, 0)


def test_without_prompts_there_is_nothing_to_permute(prepared):
    dataset, table, config, _ = prepared
    settings = config.model_copy(update={"prompt": config.prompt.model_copy(update={"num_prompts": 0})})
    model = build_model(settings, layout_of(dataset), objective="pretrain")
    lines = Recovery(model, dataset, table, batch_size=32).score(dataset.read_row_groups("train", [0, 1]))
    assert lines["hits_permuted"].null_count == len(lines) > 0
    for field in summarise_recovery(lines).values():
        assert field["own"] is not None
        assert [field[key] for key in ("permuted", "ratio", "difference", "interval")] == [None] * 4


def test_rows_with_nothing_masked_and_no_rows(prepared):
    dataset, table, _, model = prepared
    recovery = Recovery(model, dataset, table, batch_size=1)
    assert recovery.score(dataset.read_split("test").slice(0, 0)).equals(SCHEMA.empty_table())
    assert summarise_recovery(SCHEMA.empty_table()) == {}
    lonely = recovery.score(dataset.read_split("test").slice(0, 1))  # its own partner
    assert lonely["hits_own"].equals(lonely["hits_permuted"])


def test_fields_that_a_text_has_no_room_for_are_not_asked_for(prepared):
    dataset, table, _, model = prepared
    rows = dataset.read_split("valid")
    whole = ordered(Recovery(model, dataset, table, batch_size=32).score(rows)).to_pylist()
    short = ordered(Recovery(model, dataset, table, batch_size=32, max_length=18).score(rows)).to_pylist()
    asked = {(line["row_id"], line["field"]): line["tokens"] for line in whole}
    assert all(asked[line["row_id"], line["field"]] == line["tokens"] for line in short)
    assert 0 < len(short) < len(whole)
    assert sum(line["field"] == "Film genre" for line in short) == sum(
        line["field"] == "Film genre" for line in whole
    )  # goes last


def lines_of(*rows) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)


BY_HAND = (
    (1, "Title", 5, True, 4, 3, 1),
    (2, "Title", 5, False, 2, 0, 1),
    (3, "Title", 6, True, 2, 1, 0),
    (3, "Age", 6, True, 1, 1, 0),
)


def test_figures_by_hand():
    title = summarise_recovery(lines_of(*BY_HAND))["Title"]
    assert {key: title[key] for key in ("rows", "users", "targets")} == {"rows": 3, "users": 2, "targets": 8}
    assert (title["own"], title["permuted"], title["ratio"], title["difference"]) == (4 / 8, 2 / 8, 2, 2 / 8)
    assert title["interval"] == pytest.approx((1 / 6, 1 / 2))  # user 5 twice, user 6 twice
    assert (
        title["seen"]["targets"],
        title["seen"]["own"],
        title["seen"]["permuted"],
        title["seen"]["ratio"],
    ) == (6, 4 / 6, 1 / 6, 4)
    age = summarise_recovery(lines_of(*BY_HAND))["Age"]
    assert (age["own"], age["permuted"], age["ratio"], age["difference"], age["interval"]) == (
        1,
        0,
        None,
        1,
        None,
    )


def test_compare_is_paired():
    other = lines_of(*((*row[:5], min(row[4], row[5] + 1), None) for row in BY_HAND))
    compared = compare_recovery(lines_of(*BY_HAND), other)["Title"]
    assert (compared["own"], compared["against"], compared["difference"]) == (4 / 8, 7 / 8, -3 / 8)
    assert compared["interval"] == pytest.approx(
        (-1 / 2, -1 / 3)
    )  # always worse, however the users are drawn
    with pytest.raises(DataError, match="different tokens"):
        compare_recovery(lines_of(*BY_HAND), lines_of(*BY_HAND[:3]))
    with pytest.raises(DataError, match="different tokens"):
        compare_recovery(lines_of(*BY_HAND), lines_of((1, "Title", 5, True, 5, 3, 1), *BY_HAND[1:]))


def test_files(tmp_path):
    folder = str(tmp_path / "recovery")
    with pytest.raises(DataError, match="clickprompt recovery"):
        read_recovery(folder)
    write_recovery(f"{folder}/part-00001.parquet", lines_of(*BY_HAND[:1]))
    write_recovery(f"{folder}/part-00000.parquet", lines_of(*reversed(BY_HAND[1:])))
    assert read_recovery(folder).equals(ordered(lines_of(*BY_HAND)))
    (tmp_path / "recovery" / "part-00000.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="evaluate again"):
        read_recovery(folder)


def test_an_export_reads_as_the_model_it_was_written_from(prepared, tmp_path):
    dataset, table, config, model = prepared
    export = str(tmp_path / "export")
    write(export, model, config, dataset)
    check_recoverable(export, dataset)
    rows = dataset.read_split("valid")
    expected = ordered(Recovery(model, dataset, table, batch_size=16).score(rows))
    assert ordered(Recovery.load(export, dataset).score(rows)).equals(expected)


def test_a_run_that_learned_the_click_reads_its_mask_at_the_end(tmp_path, monkeypatch):
    dataset, plm = write_both(str(tmp_path / "both"), more_words=CLICK_WORDS)
    config = tiny_config(dataset.uri, plm, plm__click_text=True, masking__vocabulary="dataset")
    model = build_model(config, layout_of(dataset), objective="pretrain").eval()
    export = str(tmp_path / "export")
    write(export, model, config, dataset)
    table = open_model_table(dataset, load_tokenizer(plm), config.plm)
    ends, seen = [*table.click.tokens, *table.meta["suffix"]], []
    logits = ClickPrompt.masked_lm_logits

    def noting(self, field_ids, masked_input_ids, attention_mask, *more, **options):
        for tokens, mask in zip(masked_input_ids, attention_mask, strict=True):
            seen.append(tokens[mask == 1].tolist())
        return logits(self, field_ids, masked_input_ids, attention_mask, *more, **options)

    monkeypatch.setattr(ClickPrompt, "masked_lm_logits", noting)
    rows = dataset.read_split("valid")
    lines = ordered(Recovery.load(export, dataset).score(rows))
    assert len(seen) > 100
    assert all(tokens[-len(ends) :] == ends for tokens in seen)
    assert set(lines["field"].to_pylist()) == set(dataset.field_names)
    of_model = Recovery(model, dataset, table, batch_size=16, vocabulary=table.vocabulary)
    assert ordered(of_model.score(rows)).equals(lines)


def test_only_masked_language_models(prepared, tmp_path):
    dataset, _, config, model = prepared
    export = str(tmp_path / "export")
    write(export, model, config, dataset)
    info = storage.read_json(f"{export}/export.json")
    info["plm"]["model_type"] = "gpt2"
    storage.write_json(f"{export}/export.json", info)
    with pytest.raises(DataError, match="gpt2 was pretrained by causal language modelling"):
        check_recoverable(export, dataset)


def test_a_finetuned_export_is_refused(prepared, tmp_path, capsys):
    dataset, _, config, _ = prepared
    export = str(tmp_path / "export")
    write(
        export,
        build_model(config, layout_of(dataset), objective="with_plm"),
        config,
        dataset,
        objective="with_plm",
    )
    with pytest.raises(DataError, match="evaluate the pretraining run"):
        check_recoverable(export, dataset)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--run", export, "--against", export])
    assert stopped.value.code == 2
    assert "has no predictions of the test split" in capsys.readouterr().err


def write(export, model, config, dataset, objective="pretrain"):
    write_export(
        export,
        weights_of(model),
        plm=model.plm.config_dict(),
        objective=objective,
        config=config,
        dataset=dataset,
        tokenizer=load_tokenizer(config.plm.path),
        tokenizer_fingerprint=None,
        step=1,
    )
