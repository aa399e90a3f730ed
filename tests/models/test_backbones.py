"""CTR backbones against golden values (tests/golden/ctr: outputs of FuxiCTR's published models), naive loops,
and each other's rules.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clickprompt.config import CTRConfig, FGCNNConfig
from clickprompt.errors import ConfigError
from clickprompt.models.backbones import BACKBONES
from clickprompt.models.ctr import CTRModel
from tests.support import golden_ctr, naive_ctr

GOLDEN = Path(os.environ.get("CLICKPROMPT_GOLDEN", Path(__file__).parents[1] / "golden" / "ctr"))
FILES = sorted(GOLDEN.rglob("*.npz"))
assert FILES, f"CLICKPROMPT_GOLDEN={GOLDEN}: no .npz file there"


def probability(model: CTRModel, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(ids)).double().sigmoid().numpy()


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(GOLDEN).with_suffix("")) for path in FILES])
def test_reproduces_golden_values(path: Path) -> None:
    arrays = golden_ctr.read(path)
    model = golden_ctr.load_settings(arrays)
    np.testing.assert_allclose(probability(model, arrays["ids"]), arrays["probability"], rtol=0, atol=1e-6)


FGCNN = {
    "channels": [2, 3],
    "kernel_heights": [3, 5],
    "pooling_sizes": [2, 3],
    "recombined_channels": [1, 2],
    "dnn_hidden_units": [9, 5],
    "conv_batch_norm": True,
    "share_embedding": False,
}
OTHER_SIZES = {  # fields' sizes, embedding size, the file's config
    "fm": ("fm", [4, 7, 2, 5, 3], 3, {}),
    "fm, two fields": ("fm", [4, 7], 1, {}),
    "dnn": ("dnn", [4, 7, 2], 5, {"hidden_units": [9, 4]}),
    "dnn, one field": ("dnn", [4], 5, {"hidden_units": [3]}),
    "deepfm": ("deepfm", [4, 7, 2], 5, {"hidden_units": [9, 4, 6]}),
    "xdeepfm": ("xdeepfm", [4, 7, 2, 3], 5, {"dnn_hidden_units": [6, 9], "cin_hidden_units": [4, 3, 6]}),
    "xdeepfm, one layer": ("xdeepfm", [4, 7], 2, {"dnn_hidden_units": [6], "cin_hidden_units": [7]}),
    "ipnn": ("ipnn", [4, 7, 2, 3, 6], 3, {"hidden_units": [9, 4]}),
    "dcn": ("dcn", [4, 7, 2], 3, {"dnn_hidden_units": [9, 4], "num_cross_layers": 4}),
    "dcn, stacked": ("dcn", [4, 7, 2], 3, {"stacked_dnn_hidden_units": [9, 4], "num_cross_layers": 1}),
    "dcnv2": ("dcnv2", [4, 7, 2], 3, {"parallel_dnn_hidden_units": [9, 4], "num_cross_layers": 1}),
    "dcnv2, stacked": ("dcnv2", [4, 7, 2], 3, {"stacked_dnn_hidden_units": [9, 4], "num_cross_layers": 3}),
    "autoint": (
        "autoint",
        [4, 7, 2],
        6,
        {"attention_layers": 2, "num_heads": 1, "attention_dim": 6, "dnn_hidden_units": []},
    ),
    "autoint, W_res": (
        "autoint",
        [4, 7, 2],
        5,
        {"attention_layers": 3, "num_heads": 3, "attention_dim": 6, "dnn_hidden_units": []},
    ),
    "autoint, DNN": (
        "autoint",
        [4, 7],
        5,
        {"attention_layers": 1, "num_heads": 2, "attention_dim": 8, "dnn_hidden_units": [9, 4]},
    ),
    "fignn": ("fignn", [4, 7, 2, 3], 5, {"gnn_layers": 2, "reuse_graph_layer": False}),
    "fignn, reuse": ("fignn", [4, 7, 2], 3, {"gnn_layers": 4, "reuse_graph_layer": True}),
    "fgcnn": ("fgcnn", [4, 7, 2, 3, 5], 3, FGCNN),
    "fgcnn, shared": ("fgcnn", [4, 7, 2, 3, 5, 6], 2, FGCNN | {"share_embedding": True}),
    "fgcnn, no norm": ("fgcnn", [4, 7, 2, 5], 4, FGCNN | {"conv_batch_norm": False, "pooling_sizes": [3, 2]}),
    "fgcnn, wide pools": ("fgcnn", [3] * 11, 2, FGCNN | {"pooling_sizes": [4, 5]}),
    "fgcnn, wider pools": ("fgcnn", [3] * 17, 2, FGCNN | {"pooling_sizes": [6, 4]}),
}


def assert_equals_loops(arrays: dict[str, np.ndarray]) -> None:
    model = golden_ctr.load_settings(arrays)
    assert next(model.parameters()).dtype == torch.float64
    ids = torch.from_numpy(arrays["ids"])
    q = model.interaction_vector(ids)
    assert q.shape[1] == model.interaction_dim
    np.testing.assert_allclose(q.detach().numpy(), arrays["q"], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(model.logits(ids, q).detach().numpy(), arrays["logit"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", OTHER_SIZES)
def test_equals_naive_loops_at_other_sizes(case: str, tmp_path: Path) -> None:
    """Through a file, as a golden one of these sizes would be read."""
    backbone, vocab_sizes, dim, config = OTHER_SIZES[case]
    np.savez(tmp_path / "made_up.npz", **naive_ctr.made_up(backbone, vocab_sizes, dim, **config))  # pyright: ignore[reportArgumentType]
    assert_equals_loops(golden_ctr.read(tmp_path / "made_up.npz"))


def test_every_backbone_is_tested_at_other_sizes() -> None:
    assert {backbone for backbone, *_ in OTHER_SIZES.values()} == set(BACKBONES)


@pytest.mark.parametrize("num_fields", range(2, 18))
def test_fgcnn_takes_any_number_of_fields(num_fields: int) -> None:
    """With the paper's four convolutions, so that few fields are down to height 1 before the last."""
    config = FGCNN | {
        "channels": [2, 3, 1, 2],
        "kernel_heights": [7] * 4,
        "pooling_sizes": [2] * 4,
        "recombined_channels": [1, 2, 1, 1],
    }
    assert_equals_loops(naive_ctr.made_up("fgcnn", [3] * num_fields, 2, seed=num_fields, rows=2, **config))


def small(backbone: str, prediction: bool = True, dropout: float = 0.0, **changes: object) -> CTRModel:
    torch.manual_seed(0)
    config = CTRConfig(
        backbone=backbone,
        embedding_dim=4,
        hidden_dim=8,
        attention_dim=6,
        num_heads=2,
        num_layers=2,
        cin_dims=(3, 5),
        dropout=dropout,
        **changes,  # pyright: ignore[reportArgumentType]
    )
    model = CTRModel([5, 3, 4, 2], config, prediction=prediction)
    torch.nn.init.normal_(model.embedding.weight)  # std 0.02 leaves some gradients at rounding noise
    return model


IDS = torch.tensor([[0, 0, 0, 0], [4, 2, 3, 1], [1, 1, 0, 1], [2, 0, 3, 0], [3, 2, 2, 1]])
VARIANTS = [(name, {}) for name in sorted(BACKBONES)] + [
    ("autoint", {"with_dnn": True}),
    ("dcn", {"structure": "stacked"}),
    ("dcnv2", {"structure": "stacked"}),
    ("fgcnn", {"fgcnn": FGCNNConfig(share_embedding=True, batch_norm=False)}),
    ("fignn", {"reuse_layer": True}),
]


@pytest.mark.parametrize("prediction", [True, False], ids=["finetuning", "pretraining"])
@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_every_parameter_has_a_gradient(name: str, changes: dict, prediction: bool) -> None:
    """DDP and DeepSpeed wait for each of them; pretraining reads q only."""
    model = small(name, prediction, **changes).train()
    q = model.interaction_vector(IDS)
    assert q.shape == (len(IDS), model.interaction_dim)
    output = model.logits(IDS, q).unsqueeze(1) if prediction else q
    (output * torch.randn_like(output)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        # a bias before batch normalisation changes nothing
        assert parameter.grad.abs().sum() > 0 or parameter_name.endswith("convolution.bias"), parameter_name


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_pretraining_lacks_only_what_the_logit_needs(name: str) -> None:
    whole, without = small(name).state_dict(), small(name, prediction=False).state_dict()
    assert {key.split(".")[0] for key in whole.keys() - without.keys()} == {"prediction"} | (
        {"linear_terms"} if name in ("fm", "deepfm", "xdeepfm") else set()
    )
    assert without.keys() < whole.keys()


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_dropout_only_while_training(name: str, changes: dict) -> None:
    model = small(name, dropout=0.5, **changes)
    if name not in ("fm", "fignn"):  # they have no deep part
        assert not torch.equal(model.train()(IDS), model(IDS))
    assert torch.equal(model.eval()(IDS), model(IDS))


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    model = small(name).double().eval()
    torch.testing.assert_close(
        torch.cat([model(row) for row in IDS.split(1)]), model(IDS), rtol=0, atol=1e-12
    )


class LargestTensor(TorchDispatchMode):
    """The largest tensor that any operation makes, forward or backward, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.elements = max(
            self.elements,
            *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)),
            0,
        )
        return result


def test_xdeepfm_never_holds_all_products() -> None:
    """At GoodReads' shape [B, F·H, d] has 24.6M elements; nothing made is larger than the model's own layers,
    forward or backward.
    """
    batch, num_fields, dim, cin_dims = 4096, 15, 16, (25, 25)
    config = CTRConfig(backbone="xdeepfm", embedding_dim=dim, hidden_dim=256, num_layers=1, cin_dims=cin_dims)
    model = CTRModel([10] * num_fields, config)
    with LargestTensor() as largest:
        model(torch.zeros(batch, num_fields, dtype=torch.int64)).sum().backward()
    own = batch * max(num_fields * dim, cin_dims[0] * dim, 256)
    assert own <= largest.elements <= 1.1 * own < batch * num_fields * cin_dims[0] * dim / 10


def test_xdeepfm_in_pieces_has_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for at_once in (2**20, 1):  # all rows; one row
        monkeypatch.setattr("clickprompt.models.backbones.xdeepfm._PRODUCTS_AT_ONCE", at_once)
        model = small("xdeepfm").double()
        model(IDS).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-12)


def test_each_field_counts_from_zero() -> None:
    model = CTRModel([5, 3, 4], CTRConfig(embedding_dim=2))
    rows = model.embedding(torch.tensor([[4, 0, 3]]))[0]
    assert torch.equal(rows, model.embedding.weight[[4, 5, 11]])
    assert "embedding.offsets" not in model.state_dict()


def test_a_graph_of_one_field_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=(
            r"ctr\.backbone=fignn: a graph of the fields needs two, the dataset has 1; use "
            r"another backbone"
        ),
    ):
        CTRModel([5], CTRConfig(backbone="fignn"))


def test_unknown_backbone_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigError,
        match=(
            r"ctr\.backbone='fm2': no such backbone; known: autoint, dcn, dcnv2, deepfm, dnn, "
            r"fgcnn, fignn,"
        ),
    ):
        CTRModel([5], CTRConfig(backbone="fm2"))
