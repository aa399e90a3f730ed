"""CTR backbones against golden values (tests/golden/ctr: outputs of FuxiCTR's published models) and their registry."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from clickprompt.config import CTRConfig
from clickprompt.errors import ConfigError
from clickprompt.models.backbones import BACKBONES, get_backbone
from clickprompt.models.ctr import CTRModel

GOLDEN = Path(os.environ.get("CLICKPROMPT_GOLDEN", Path(__file__).parents[1] / "golden" / "ctr"))


def _golden(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    return arrays, {key[2:]: torch.from_numpy(array) for key, array in arrays.items() if key.startswith("w/")}


def _config(name: str, config: dict) -> CTRConfig:
    if name == "autoint":
        sizes = {"num_layers": config["attention_layers"], "num_heads": config["num_heads"], "attention_dim": config["attention_dim"]}
    else:
        hidden = next(config[key] for key in ("parallel_dnn_hidden_units", "stacked_dnn_hidden_units", "hidden_units") if key in config)
        sizes = {"num_layers": len(hidden), "hidden_dim": hidden[0], "structure": config.get("model_structure", "parallel")}
    return CTRConfig(backbone=name.split("_")[0], embedding_dim=8, **sizes)


def _rename(name: str, weights: dict[str, torch.Tensor], num_fields: int, num_layers: int) -> dict[str, torch.Tensor]:
    """The golden file's parameter names → ours."""
    tables = [weights[f"embedding_layer.embedding_layer.embedding_layers.f{j}.weight"] for j in range(num_fields)]
    state = {"embedding.weight": torch.cat(tables)}
    last = f"mlp.mlp.{2 * num_layers}" if name == "dnn" else "fc"
    for part in ("weight", "bias"):
        state[f"prediction.{part}"] = weights[f"{last}.{part}"]
        for layer in range(num_layers) if name != "autoint" else ():
            deep = {"dnn": "mlp", "dcnv2": "parallel_dnn", "dcnv2_stacked": "stacked_dnn"}[name]
            state[f"backbone.deep.linears.{layer}.{part}"] = weights[f"{deep}.mlp.{2 * layer}.{part}"]
            if name != "dnn":
                state[f"backbone.cross.{layer}.{part}"] = weights[f"crossnet.cross_layers.{layer}.{part}"]
    if name == "autoint":
        for layer in range(num_layers):
            for ours, theirs in (("query", "W_q"), ("key", "W_k"), ("value", "W_v"), ("residual", "W_res")):
                key = f"self_attention.{layer}.{theirs}.weight"
                if key in weights:
                    state[f"backbone.layers.{layer}.{ours}.weight"] = weights[key]
    return state


@pytest.mark.parametrize("name", ["dcnv2", "dcnv2_stacked", "dnn", "autoint"])
def test_reproduces_golden_values(name: str) -> None:
    arrays, weights = _golden(name)
    config = _config(name, json.loads(str(arrays["config"])))
    sizes = arrays["vocab_sizes"].tolist()
    model = CTRModel(sizes, config).eval()
    model.load_state_dict(_rename(name, weights, len(sizes), config.num_layers))
    with torch.no_grad():
        probability = model(torch.from_numpy(arrays["ids"])).double().sigmoid()
    np.testing.assert_allclose(probability.numpy(), arrays["probability"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_interaction_vector_is_what_the_prediction_reads(name: str) -> None:
    model = CTRModel([5, 3, 4], CTRConfig(backbone=name, embedding_dim=4, hidden_dim=8, attention_dim=6, num_heads=2, num_layers=2))
    ids = torch.tensor([[0, 0, 0], [4, 2, 3]])
    q = model.interaction_vector(ids)
    assert q.shape == (2, model.interaction_dim)
    assert torch.equal(model(ids), model.prediction(q).squeeze(-1))
    model(ids).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_autoint_projects_the_residual_where_sizes_differ() -> None:
    """Naive loops over rows, heads and fields, in float64."""
    torch.manual_seed(0)
    config = CTRConfig(backbone="autoint", embedding_dim=4, attention_dim=6, num_heads=2, num_layers=1)
    attention = get_backbone("autoint")(3, config).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    layer = attention.layers[0]
    expected = torch.zeros(2, 3, 6, dtype=torch.float64)
    for b in range(2):
        query, key, value = (x[b] @ w.weight.T for w in (layer.query, layer.key, layer.value))
        for head in (slice(0, 3), slice(3, 6)):
            for i in range(3):
                weights = torch.softmax(torch.stack([query[i, head] @ key[j, head] for j in range(3)]), 0)
                expected[b, i, head] = sum(weights[j] * value[j, head] for j in range(3))
        expected[b] = torch.relu(expected[b] + x[b] @ layer.residual.weight.T)
    torch.testing.assert_close(attention(x), expected.flatten(1), rtol=0, atol=1e-12)


def test_each_field_counts_from_zero() -> None:
    model = CTRModel([5, 3, 4], CTRConfig(embedding_dim=2))
    rows = model.embedding(torch.tensor([[4, 0, 3]]))[0]
    assert torch.equal(rows, model.embedding.weight[[4, 5, 11]])
    assert "embedding.offsets" not in model.state_dict()


def test_dropout_only_while_training() -> None:
    model = CTRModel([5, 3], CTRConfig(backbone="dnn", dropout=0.5))
    ids = torch.zeros(1, 2, dtype=torch.int64)
    assert not torch.equal(model.train().interaction_vector(ids), model.interaction_vector(ids))
    assert torch.equal(model.eval().interaction_vector(ids), model.interaction_vector(ids))


def test_unknown_backbone_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"ctr\.backbone='fm2'.*autoint, dcnv2, dnn"):
        CTRModel([5], CTRConfig(backbone="fm2"))
