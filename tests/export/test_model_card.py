"""The model card: read as the Hub reads it, with what is known, nothing else, and no address."""

import os
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.export.format import export_of, load_export, read_info, weights_checksum
from clickprompt.export.model_card import CARD, evaluations_of, model_card, write_card
from clickprompt.export.serving_folder import export_for_serving
from clickprompt.io import storage
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.train.train import run_training
from tests.support.finetuned import write_run
from tests.support.tiny import tiny_config, write_both

FIGURES = {"auc": 0.7654321, "auc_interval": [0.7, 0.8123], "log_loss": 0.5678}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("card")))


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """A run's folder, as a training leaves it."""
    run = str(tmp_path_factory.mktemp("trained") / "run")
    config = tiny_config(prepared[0].uri, prepared[1], finetune__with_plm=False, finetune__max_steps=8)
    run_training(config, "finetune", run)
    return run


def card_of(run: str, **changes) -> str:
    info = read_info(export_of(run))
    dataset = Dataset.open(info.config["data"]["path"])
    return model_card(vars(replace(info, **changes)), dataset, {})


def test_a_training_ends_with_a_card_and_export_knows_more(prepared, trained, tmp_path, capsys):
    export = export_of(trained)
    info = read_info(export)
    assert CARD not in (info.files or {})
    card = ModelCard.load(os.path.join(export, CARD))
    assert card.data.to_dict() == {
        "library_name": "clickprompt",
        "pipeline_tag": "tabular-classification",
        "tags": ["ctr-prediction", "recommendation", "clickprompt", "dcnv2"],
        "metrics": ["roc_auc", "log_loss"],
    }
    assert f"| valid | {info.valid_auc:.4f} | – | {info.valid_log_loss:.4f} |" in card.text
    assert "| test | 120 |" in card.text  # its rows, not its figures
    assert "Scored on this log alone (valid)" in card.text

    [result] = evaluate([trained], "test")
    assert ModelCard.load(os.path.join(export, CARD)).text == card.text  # evaluate changes no export
    served = str(tmp_path / "served")
    export_for_serving(trained, served)
    known = ModelCard.load(os.path.join(served, CARD)).text
    low, high = result["auc_interval"]
    assert f"| test | {result['auc']:.4f} | [{low:.4f}, {high:.4f}] | {result['log_loss']:.4f} |" in known
    assert f"| valid | {info.valid_auc:.4f} |" in known
    assert "clickprompt serve --run" in known
    for text in (card.text, known):
        for address in (trained, prepared[0].uri, os.path.dirname(trained), "/tmp", "://"):
            assert address not in text


def test_the_card_is_no_part_of_what_is_checked(prepared, tmp_path):
    """An export from before there were cards is whole, and so is one whose card was edited or deleted."""
    run, served = str(tmp_path / "run"), str(tmp_path / "served")
    write_run(run, prepared)
    assert not os.path.exists(os.path.join(run, "export", CARD))
    load_export(export_of(run))
    export_for_serving(run, served)
    storage.write_bytes(os.path.join(served, CARD), b"---\nlicense: mit\n---\n")
    load_export(served)
    os.remove(os.path.join(served, CARD))
    load_export(served)


def test_only_evaluations_of_the_same_weights_count(prepared, tmp_path):
    run = str(tmp_path / "run")
    write_run(run, prepared)
    export = export_of(run)
    path = os.path.join(run, "evaluation-test.json")
    storage.write_json(path, {**FIGURES, "weights": "others'"})
    assert evaluations_of(export) == {}
    storage.write_json(path, {**FIGURES, "weights": weights_checksum(export)})
    assert list(evaluations_of(export)) == ["test"]
    write_card(export, prepared[0], evaluations_of(export))
    text = ModelCard.load(os.path.join(export, CARD)).text
    assert "| test | 0.7654 | [0.7000, 0.8123] | 0.5678 |" in text
    assert "valid |" in text.split("## Data")[1].split("## Metrics")[0]
    assert "| valid" not in text.split("## Metrics")[1]
    assert "chose the step" not in text


def test_what_is_not_known_is_left_out(prepared, tmp_path):
    """No validation, no test, no dates, no unseen shares: the synthetic dataset's manifest has none."""
    run = str(tmp_path / "run")
    write_run(run, prepared)
    text = card_of(run)
    front = ModelCard(text).data.to_dict()
    assert "metrics" not in front
    assert "license" not in front
    assert "## Metrics" not in text
    assert "unseen" not in text
    assert "from" not in text.split("## Data")[1].split("##")[0]
    assert "None" not in text
    assert "It wasn't scored on any split." in text


def test_a_users_own_log_has_no_name(prepared, tmp_path):
    """Its source is a checksum of the schema; a history is named."""
    run = str(tmp_path / "run")
    write_run(run, prepared)
    info = vars(read_info(export_of(run))) | {"history": {"field": 2, "length": 20}}
    dataset = Dataset(prepared[0].uri, {**prepared[0].manifest, "source": "table d1a16bae1737"})
    text = model_card(info, dataset, {})
    assert "# dcnv2 on a log that a YAML file describes" in text
    assert "d1a16bae1737" not in text
    assert "last 20 rows (`mean`)" in text
    assert "given vectors" not in text
    vectors = [{"field": 2, "size": 16}]
    given = model_card(info, Dataset(dataset.uri, {**dataset.manifest, "vectors": vectors}), {})
    assert f"have given vectors, of another model: {info['field_names'][2]} (16 numbers)" in given
    info["history"] = {"field": 2, "length": 20, "further": [1, "label", "age"]}
    name = info["field_names"][1]
    assert f"last 20 rows, with {name}, label and age of each (`mean`)" in model_card(info, dataset, {})


def test_dates_and_unseen_shares(prepared, tmp_path):
    run = str(tmp_path / "run")
    write_run(run, prepared)
    day = 86_400_000_000
    fields = [
        {**field, "unseen_in_train": {"valid": 0, "test": 60 if field["name"] == "User ID" else 0}}
        for field in prepared[0].manifest["fields"]
    ]
    bounds = {"train": [0, 9 * day], "valid": [9 * day, 10 * day], "test": [10 * day, 11 * day]}
    dataset = Dataset(prepared[0].uri, {**prepared[0].manifest, "fields": fields, "bounds": bounds})
    text = model_card(vars(read_info(export_of(run))), dataset, {})
    assert "The training rows end on 1970-01-10" in text
    assert "Test rows whose value no training row has: User ID 50%." in text
    assert "| User ID | 30 | 50.0% |" in text
    assert "| Gender | 2 | 0.0% |" in text


def test_a_model_with_a_plm_says_which(prepared, tmp_path):
    run = str(tmp_path / "run")
    write_run(run, prepared, objective="with_plm")
    text = card_of(run)
    assert "descriptions of their values" not in text
    rules = [{"schema": {"name": "Title", "text": {"column": "items.title"}}}, {"schema": {"name": "Age"}}]
    dataset = Dataset(prepared[0].uri, {**prepared[0].manifest, "transform": {"fields": rules}})
    described = model_card(vars(read_info(export_of(run))), dataset, {})
    assert "- Fields that it reads by descriptions of their values: Title\n" in described
    assert "- Language model: `plm`, family `bert`, weights drawn at random" in text
    assert "- Soft prompts: 2 (layerwise)" in text
    assert "bert" in ModelCard(text).data.to_dict()["tags"]
    assert os.path.dirname(prepared[1]) not in text


def test_a_pretrained_model_classifies_nothing(prepared, tmp_path):
    run = str(tmp_path / "run")
    write_run(run, prepared, objective="pretrain")
    text = card_of(run)
    assert "pipeline_tag" not in ModelCard(text).data.to_dict()
    assert "clickprompt finetune --config run.yaml --set finetune.init=EXPORT" in text
    assert "clickprompt predict" not in text


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.sampled(1)
def test_a_graph_says_what_it_takes(prepared, tmp_path, raw):
    run, out = str(tmp_path / "run"), str(tmp_path / "graph")
    write_run(run, prepared)
    export_for_serving(run, out, "onnx", raw=raw)
    text = ModelCard.load(os.path.join(out, CARD)).text
    assert ("`model.onnx` takes the log's columns" if raw else "`model.onnx` takes `field_ids`") in text
