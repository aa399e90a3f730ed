"""PLMs of strangers, as a hub has them: what their files say is built right or refused in one line, whatever
it is, and no number in them takes much memory.

`CLICKPROMPT_FUZZ_EXAMPLES=5000 pytest tests/test_strangers_models.py` looks longer.
"""

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickprompt.config import PLMConfig
from clickprompt.data.text.template import encode, load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.export.format import load_export
from clickprompt.io import storage
from clickprompt.models.plm_loading import check_plm, load_plm
from tests.support.damaged import changed, damaged, fuzz, refused
from tests.support.finetuned import write_run
from tests.support.folders import files_below
from tests.support.synthetic import write_dataset
from tests.support.tiny import write_both, write_plm
from tests.support.tiny_plms import FAMILIES, save_plm

FUZZ = fuzz(5)
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def plms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plms")
    return {family: save_plm(folder / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tokenizers"))
    dataset = write_dataset(f"{folder}/data")
    return dataset, [write_plm(f"{folder}/{family}", family) for family in ("bert", "t5")]


def built(plm: PLMConfig) -> None:
    check_plm(plm)
    load_plm(plm)


def spoil(path: str, draw) -> None:
    """A JSON file says something else, or any file has other bytes."""
    content = storage.read_bytes(path)
    if path.endswith(".json") and draw(st.booleans()):
        values = json.loads(content)
        changed(values, draw)
        content = json.dumps(values).encode()
    else:
        content = damaged(content, draw)
    storage.write_bytes(path, content)


@FUZZ
@given(st.data())
def test_a_plm_is_built_or_refused(plms, data):
    good = plms[data.draw(st.sampled_from(sorted(plms)))]
    folder = f"{good}-changed"
    shutil.copytree(good, folder)
    try:
        spoil(f"{folder}/{data.draw(st.sampled_from([CONFIG, CONFIG, WEIGHTS]))}", data.draw)
        refused(built, PLMConfig(path=folder, random_init=data.draw(st.booleans())))
    finally:
        shutil.rmtree(folder)


@FUZZ
@given(st.data())
def test_a_tokenizer_is_read_or_refused(tokenizers, data):
    dataset, folders = tokenizers
    good = data.draw(st.sampled_from(folders))
    folder = f"{good}-changed"
    shutil.copytree(good, folder)
    before = files_below(dataset.uri)
    try:
        spoil(
            f"{folder}/{data.draw(st.sampled_from(['tokenizer.json', 'tokenizer_config.json']))}", data.draw
        )
        if refused(lambda: build_token_table(dataset, load_tokenizer(folder))) is not None:
            assert files_below(dataset.uri) == before
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(f"{dataset.uri}/tokens", ignore_errors=True)


def test_a_tokenizer_without_the_unknown(tokenizers, tmp_path):
    """It reads what it knows; this dataset's texts have letters that it doesn't."""
    dataset, folders = tokenizers
    [good] = [folder for folder in folders if folder.endswith("t5")]
    shutil.copytree(good, tmp_path / "t5")
    values = storage.read_json(f"{tmp_path}/t5/tokenizer.json")
    values["model"]["unk_id"] = None
    storage.write_json(f"{tmp_path}/t5/tokenizer.json", values)
    tokenizer = load_tokenizer(f"{tmp_path}/t5")
    for read in (
        lambda: build_token_table(dataset, tokenizer),
        lambda: encode(tokenizer, ["ß"], special_tokens=True),
    ):
        assert "tokenizer.json is damaged" in (refused(read) or "")


@pytest.mark.parametrize("values", [None, 3, "bert", [], [1], {}, {"model_type": []}, {"model_type": None}])
def test_a_config_json_that_is_something_else(tmp_path, values):
    storage.write_json(f"{tmp_path}/{CONFIG}", values)
    said = refused(check_plm, PLMConfig(path=str(tmp_path), random_init=True)) or ""
    assert str(tmp_path) in said
    assert CONFIG in said


def test_quantised_weights_are_named(plms, tmp_path):
    shutil.copytree(plms["llama"], tmp_path / "plm")
    values = storage.read_json(f"{tmp_path}/plm/{CONFIG}")
    storage.write_json(
        f"{tmp_path}/plm/{CONFIG}", values | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    )
    assert "quantised" in (refused(check_plm, PLMConfig(path=f"{tmp_path}/plm")) or "")
    assert refused(check_plm, PLMConfig(path=f"{tmp_path}/plm", random_init=True)) is None


CLAIMS = [
    ("bert", "num_hidden_layers", 10**6),
    ("bert", "num_hidden_layers", 10**12),
    ("qwen2", "num_hidden_layers", 10**12),
    ("bert", "vocab_size", 10**7),
    ("bert", "hidden_size", 10**6),
    ("llama", "intermediate_size", 10**7),
    ("gpt2", "n_embd", 10**15),
    ("t5", "d_ff", 10**7),
    ("bart", "max_position_embeddings", 10**7),
    ("electra", "num_labels", 10**9),
]


@pytest.mark.parametrize(("family", "key", "number"), CLAIMS)
def test_a_size_that_its_weights_do_not_bear_out(plms, tmp_path, family, key, number):
    shutil.copytree(plms[family], tmp_path / "plm")
    values = storage.read_json(f"{tmp_path}/plm/{CONFIG}")
    if family == "qwen2":
        del values["layer_types"]
    storage.write_json(f"{tmp_path}/plm/{CONFIG}", values | {key: number})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert str(tmp_path) in (refused(built, PLMConfig(path=f"{tmp_path}/plm")) or "")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize(
    "index",
    [
        [],
        {},
        {"weight_map": []},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": "../model.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": "nowhere.safetensors"}},
    ],
)
def test_an_index_names_files_beside_it(plms, tmp_path, index):
    shutil.copytree(plms["bert"], tmp_path / "plm")
    os.rename(tmp_path / "plm" / WEIGHTS, tmp_path / WEIGHTS)
    storage.write_json(f"{tmp_path}/plm/{INDEX}", index)
    assert f"{tmp_path}/plm" in (refused(built, PLMConfig(path=f"{tmp_path}/plm")) or "")


def test_weights_in_several_files_are_read(plms, tmp_path):
    model = load_plm(PLMConfig(path=plms["bert"]))
    from transformers import AutoModelForMaskedLM

    AutoModelForMaskedLM.from_pretrained(plms["bert"]).save_pretrained(tmp_path, max_shard_size="4KB")
    assert (Path(tmp_path) / INDEX).exists()
    again = load_plm(PLMConfig(path=str(tmp_path))).state_dict()
    assert all(again[name].equal(tensor) for name, tensor in model.state_dict().items())


@FUZZ
@given(st.data())
def test_an_export_with_a_plm_is_read_or_refused(exports, data):
    folder = f"{exports}-changed"
    shutil.copytree(exports, folder)
    try:
        info = storage.read_json(f"{folder}/export.json")
        name = data.draw(st.sampled_from(["export.json", *info["files"]]))
        if name == "export.json":
            changed(info["plm"] if data.draw(st.booleans()) else info, data.draw)
        else:
            spoil(f"{folder}/{name}", data.draw)
            info["files"][name] = storage.sha256(f"{folder}/{name}")
        storage.write_json(f"{folder}/export.json", info)
        refused(load_export, folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("exports"))
    write_run(f"{folder}/run", write_both(folder), "with_plm")
    return f"{folder}/run/export"


def test_a_tokenizer_with_unused_ids_is_none_that_is_damaged(tokenizers, tmp_path):
    dataset, (good, _) = tokenizers
    table = build_token_table(dataset, load_tokenizer(good))
    shutil.copytree(good, tmp_path / "plm")
    values = storage.read_json(f"{tmp_path}/plm/tokenizer.json")
    del values["model"]["vocab"]["unknown"]
    storage.write_json(f"{tmp_path}/plm/tokenizer.json", values)
    tokenizer = load_tokenizer(f"{tmp_path}/plm")
    again = build_token_table(dataset, tokenizer)
    assert again.vocab_size == table.vocab_size == len(tokenizer) + 1
    shutil.rmtree(f"{dataset.uri}/tokens")
