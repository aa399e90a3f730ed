"""The text vectors are transformers' own, of each value alone; on Ray the same as in one process."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from clickprompt.config import replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.text_vectors import TextVectors, write_text_vectors
from clickprompt.errors import ConfigError, DataError, MissingTextVectorsError
from clickprompt.io import storage
from clickprompt.models.text_projection import text_size_of
from clickprompt.runtime.prepare.embed import embed_values, open_text_vectors, vectors_fingerprint
from clickprompt.runtime.prepare.value_embedder import ValueEmbedder
from tests.support.synthetic import FIELDS, write_dataset
from tests.support.tiny import tiny_config, write_plm

ON = {"ctr.text_embeddings": "added", "finetune.with_plm": False, "prompt.num_prompts": 0}
SIZE = 32


def write_weights(folder: str, family: str, seed: int = 5) -> str:
    """A tiny PLM with weights, far from 0."""
    plm = write_plm(folder, family)
    torch.manual_seed(seed)
    model = AutoModel.from_config(AutoConfig.from_pretrained(plm))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(plm)
    return plm


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def plm(request, tmp_path_factory):
    return write_weights(str(tmp_path_factory.mktemp("plm") / request.param), request.param)


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(str(tmp_path / "data"))


def config_of(dataset, plm, **changes):
    config = tiny_config(dataset.uri, plm, plm__random_init=False, runtime__use_ray="never")
    return replaced(config, ON | changes)


def naive(plm: str, text: str, limit: int = 64) -> np.ndarray:
    tokens = AutoTokenizer.from_pretrained(plm)(text, return_tensors="pt", truncation=True, max_length=limit)
    tokens.pop("token_type_ids", None)
    with torch.no_grad():
        states = AutoModel.from_pretrained(plm).eval()(**tokens).last_hidden_state[0]
    mean = sum(states) / len(states)
    return (mean / sum(x * x for x in mean) ** 0.5).numpy()


def test_values_of_transformers_own_forward(dataset, plm):
    config = config_of(dataset, plm)
    assert text_size_of(config, "finetune") == SIZE
    vectors = embed_values(dataset, config, SIZE)
    assert vectors.vectors.shape == (sum(dataset.field_sizes), SIZE)
    assert vectors.vectors.dtype == np.float16
    start = 0
    for field, size in enumerate(dataset.field_sizes):
        values = dataset.vocabulary(field).column("value").to_pylist()
        assert not vectors.vectors[start].any()
        for value in (1, 2, size - 1):
            expected = naive(plm, values[value])
            np.testing.assert_allclose(vectors.vectors[start + value], expected, atol=1e-3)
            assert abs(expected).max() > 0.05
        start += size
    ids = np.array([[1, 2, 3, 4], [30, 0, 40, 6]])
    assert vectors.of(ids).shape == (2, 4, SIZE)
    for row in range(2):
        for field, name in enumerate(FIELDS):
            before = sum(size + 1 for other, size in list(FIELDS.items())[:field])
            assert (vectors.of(ids)[row, field] == vectors.vectors[before + ids[row, field]]).all(), name


def test_long_and_empty_texts(plm):
    config = tiny_config("data", plm, plm__random_init=False).plm
    long = " ".join(["red", "old"] * 60)
    found = ValueEmbedder(config, 0)(["red 1", long, "", "warm quiet 3"])
    np.testing.assert_allclose(found[1], naive(plm, long), atol=1e-3)
    np.testing.assert_allclose(found[0], naive(plm, "red 1"), atol=1e-3)
    assert not found[2].any()
    shorter = ValueEmbedder(config.model_copy(update={"max_length": 8}), 0)([long])[0]
    np.testing.assert_allclose(shorter, naive(plm, long, 8), atol=1e-3)


def test_the_fingerprint_is_the_plm_s(dataset, plm, tmp_path):
    config = config_of(dataset, plm)
    own = vectors_fingerprint(config)
    assert vectors_fingerprint(replaced(config, {"seed": 7, "plm.pooling": "mean"})) == own
    for changes in (
        {"plm.num_layers": 1},
        {"plm.random_init": True},
        {"plm.max_length": 9},
        {"plm.path": write_weights(str(tmp_path / "other"), "bert", seed=6)},
    ):
        assert vectors_fingerprint(replaced(config, changes)) != own, changes


def test_missing_and_damaged_ones(dataset, plm):
    config = config_of(dataset, plm)
    with pytest.raises(MissingTextVectorsError, match="has no text vectors by plm"):
        open_text_vectors(dataset, config)
    vectors = embed_values(dataset, config, SIZE)
    with open(f"{vectors.uri}/vectors.bin", "ab") as stream:
        stream.write(b"abc")
    with pytest.raises(DataError, match=r"vectors.bin: missing or damaged; delete"):
        open_text_vectors(dataset, config)


def test_a_meta_of_something_else_is_refused(dataset, plm):
    config = config_of(dataset, plm)
    vectors = embed_values(dataset, config, SIZE)
    wrong = [vectors.meta | {key: None} for key in ("fingerprint", "dataset", "field_sizes", "size")]
    for said in (7, {}, *wrong):
        storage.write_json(f"{vectors.uri}/meta.json", said)
        with pytest.raises(DataError, match="damaged, or text vectors of another dataset; delete"):
            open_text_vectors(dataset, config)


def test_an_interrupted_writing_leaves_nothing(dataset):
    def breaks(chunks):
        yield np.zeros((len(next(chunks)), 2), np.float16)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_text_vectors(dataset, "0" * 16, "plm", 2, breaks)
    assert os.listdir(f"{dataset.uri}/text_vectors") == []
    with pytest.raises(MissingTextVectorsError):
        TextVectors.open(dataset, "0" * 16, "plm")


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_as_in_one_process(ray_session, tmp_path):
    plm = write_weights(str(tmp_path / "plm"), "bert")
    found = []
    for name in ("alone", "distributed"):
        dataset = write_dataset(str(tmp_path / name))
        for entry in dataset.manifest["fields"]:  # several pieces a field
            path = os.path.join(dataset.uri, entry["file"])
            pq.write_table(pq.read_table(path), path, row_group_size=7)
        dataset, config = Dataset.open(dataset.uri), config_of(dataset, plm)
        if name == "alone":
            found.append(embed_values(dataset, config, SIZE))
        else:
            found.append(embed_values(dataset, replaced(config, {"runtime.use_ray": "always"}), SIZE))
    np.testing.assert_allclose(*(vectors.vectors for vectors in found), atol=1e-3)


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        ("pretrain", {}, "for finetuning only; pretrain with ctr.text_embeddings=none"),
        ("finetune", {"finetune.with_plm": True}, "set finetune.with_plm=false"),
        ("finetune", {"baseline": "ctrl"}, "baseline=ctrl has none; leave one of the two out"),
        ("finetune", {"plm.path": None}, "plm.path is not set"),
    ],
)
def test_settings_that_do_not_fit(dataset, stage, changes, said, tmp_path):
    config = config_of(dataset, write_plm(str(tmp_path / "plm")), **changes)
    with pytest.raises(ConfigError) as caught:
        text_size_of(config, stage)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encoder_decoder_is_refused(dataset, tmp_path):
    plm = write_plm(str(tmp_path / "bart"), "bart")
    with pytest.raises(ConfigError, match=r"a bart has two stacks.*use a masked or causal"):
        text_size_of(config_of(dataset, plm, **{"plm.random_init": True}), "finetune")
