"""Golden files of the CTR backbones (.npz: ids, vocab_sizes, config, probability, w/<name>) as our
configuration and parameters.

Sizes come from the weights' shapes, and from `config` only where no shape tells them, so that a file of any
size is read.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clickprompt.config import CTRConfig
from clickprompt.models.ctr import CTRModel

Weights = dict[str, np.ndarray]

_TABLES = "embedding_layer.embedding_layers.f{}.weight"
_LINEAR_TABLES = "lr_layer.embedding_layer." + _TABLES

# The model whose weights have such names; the first that fits, whatever the file is called
_MARKS = {
    "crossnet.cross_layers.": "dcnv2",
    "crossnet.cross_net.": "dcn",
    "self_attention.": "autoint",
    "cin.": "xdeepfm",
    "fignn.": "fignn",
    "fgcnn_layer.": "fgcnn",
    "inner_product_layer.": "ipnn",
    "fm.": "fm",
    "mlp.": "dnn",
}


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def weights_of(arrays: dict[str, np.ndarray]) -> Weights:
    return {key[2:]: array for key, array in arrays.items() if key.startswith("w/")}


def backbone_of(weights: Weights) -> str:
    backbone = next(name for mark, name in _MARKS.items() if any(key.startswith(mark) for key in weights))
    return "deepfm" if backbone == "fm" and "mlp.mlp.0.weight" in weights else backbone


def dense_layers(weights: Weights, prefix: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight, bias) of the linear layers below `prefix`, in order; activations and dropout have indices of
    their own there.
    """
    indices = sorted(
        int(match[1])
        for key in weights
        if (match := re.fullmatch(rf"{re.escape(prefix)}\.mlp\.(\d+)\.weight", key))
    )
    return [
        (weights[f"{prefix}.mlp.{index}.weight"], weights[f"{prefix}.mlp.{index}.bias"]) for index in indices
    ]


def deep_prefix(weights: Weights) -> str | None:
    return next(
        (name for name in ("mlp", "dnn", "parallel_dnn", "stacked_dnn") if f"{name}.mlp.0.weight" in weights),
        None,
    )


def count(weights: Weights, pattern: str) -> int:
    """How many numbered modules have a weight of such a name."""
    return len({match[1] for key in weights if (match := re.fullmatch(pattern, key))})


def load_settings(arrays: dict[str, np.ndarray]) -> CTRModel:
    """The model of a golden file, in eval mode, in the file's precision."""
    weights = weights_of(arrays)
    num_fields = len(arrays["vocab_sizes"])
    config, state = _translate(backbone_of(weights), json.loads(str(arrays["config"])), weights, num_fields)
    field_sizes = [len(weights["embedding_layer." + _TABLES.format(field)]) for field in range(num_fields)]
    model = CTRModel(field_sizes, config)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}
    result = model.to(tensors["embedding.weight"].dtype).load_state_dict(tensors, strict=False)
    assert not result.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in result.missing_keys), result.missing_keys
    return model.eval()


def _stacked(weights: Weights, name: str, num_fields: int) -> np.ndarray:
    return np.concatenate([weights[name.format(field)] for field in range(num_fields)])


def _translate(
    backbone: str, config: dict[str, Any], weights: Weights, num_fields: int
) -> tuple[CTRConfig, Weights]:
    table = _stacked(weights, "embedding_layer." + _TABLES, num_fields)
    sizes: dict[str, Any] = {"backbone": backbone, "embedding_dim": table.shape[1]}
    state = {"embedding.weight": table}

    linear_prefix = "fm." if f"fm.{_LINEAR_TABLES.format(0)}" in weights else ""
    if linear_prefix + _LINEAR_TABLES.format(0) in weights:
        state["linear_terms.weight"] = _stacked(weights, linear_prefix + _LINEAR_TABLES, num_fields)

    prefix = deep_prefix(weights)
    hidden = dense_layers(weights, prefix) if prefix else []
    # DCN's towers end in the last hidden layer, the other models' in the logit
    output = None if backbone in ("dcn", "dcnv2") or not hidden else hidden.pop()
    if hidden:
        sizes["hidden_dims"] = [len(bias) for _, bias in hidden]
        for layer, (weight, bias) in enumerate(hidden):
            state |= {
                f"backbone.deep.linears.{layer}.weight": weight,
                f"backbone.deep.linears.{layer}.bias": bias,
            }

    if backbone in ("dcn", "dcnv2"):
        net, ours = ("cross_net", "projection.weight") if backbone == "dcn" else ("cross_layers", "weight")
        theirs = "weight.weight" if backbone == "dcn" else "weight"
        sizes["num_layers"] = count(weights, rf"crossnet\.{net}\.(\d+)\.bias")
        sizes["structure"] = "stacked" if prefix == "stacked_dnn" else "parallel"
        for layer in range(sizes["num_layers"]):
            state[f"backbone.cross.{layer}.{ours}"] = weights[f"crossnet.{net}.{layer}.{theirs}"]
            state[f"backbone.cross.{layer}.bias"] = weights[f"crossnet.{net}.{layer}.bias"]
    elif backbone == "autoint":
        sizes |= {
            "num_layers": count(weights, r"self_attention\.(\d+)\.W_q\.weight"),
            "num_heads": config["num_heads"],
            "attention_dim": len(weights["self_attention.0.W_q.weight"]),
            "with_dnn": bool(hidden),
        }
        for layer in range(sizes["num_layers"]):
            for ours, theirs in (("query", "W_q"), ("key", "W_k"), ("value", "W_v"), ("residual", "W_res")):
                key = f"self_attention.{layer}.{theirs}.weight"
                if key in weights:
                    state[f"backbone.layers.{layer}.{ours}.weight"] = weights[key]
    elif backbone == "xdeepfm":
        sizes["cin_dims"] = []
        while f"cin.cin_layer.layer_{len(sizes['cin_dims']) + 1}.weight" in weights:
            layer = len(sizes["cin_dims"])
            theirs = f"cin.cin_layer.layer_{layer + 1}"
            state |= {
                f"backbone.cin.{layer}.weight": weights[f"{theirs}.weight"][..., 0],
                f"backbone.cin.{layer}.bias": weights[f"{theirs}.bias"],
            }
            sizes["cin_dims"].append(len(weights[f"{theirs}.bias"]))
    elif backbone == "fignn":
        sizes |= {"num_layers": config["gnn_layers"], "reuse_layer": "fignn.gnn.W_in" in weights}
        for layer in range(1 if sizes["reuse_layer"] else sizes["num_layers"]):
            theirs = "fignn.gnn" if sizes["reuse_layer"] else f"fignn.gnn.{layer}"
            for ours, name in (("weight_in", "W_in"), ("weight_out", "W_out"), ("bias", "bias_p")):
                state[f"backbone.layers.{layer}.{ours}"] = weights[f"{theirs}.{name}"]
        state["backbone.attention.projection.weight"] = weights["fignn.W_attn.weight"]
        state |= {
            f"backbone.gru.{key.removeprefix('fignn.gru.')}": array
            for key, array in weights.items()
            if key.startswith("fignn.gru.")
        }
    elif backbone == "fgcnn":
        sizes["fgcnn"] = _translate_fgcnn(config, weights, state, num_fields)

    state |= _prediction(backbone, weights, output)
    return CTRConfig.model_validate(sizes), state


def _translate_fgcnn(
    config: dict[str, Any], weights: Weights, state: Weights, num_fields: int
) -> dict[str, Any]:
    if "fg_embedding_layer.embedding_layer.embedding_layers.f0.weight" in weights:
        second = _stacked(weights, "fg_embedding_layer." + _TABLES, num_fields)
        state["embedding.weight"] = np.concatenate([state["embedding.weight"], second], axis=1)
    layers = count(weights, r"fgcnn_layer\.conv_layers\.(\d+)\.0\.weight")
    batch_norm = "fgcnn_layer.conv_layers.0.1.running_mean" in weights
    for layer in range(layers):
        for part in ("weight", "bias"):
            state[f"backbone.layers.{layer}.convolution.{part}"] = weights[
                f"fgcnn_layer.conv_layers.{layer}.0.{part}"
            ]
            state[f"backbone.layers.{layer}.recombine.{part}"] = weights[
                f"fgcnn_layer.recombine_layers.{layer}.0.{part}"
            ]
        for part in ("weight", "bias", "running_mean", "running_var") if batch_norm else ():
            state[f"backbone.layers.{layer}.norm.{part}"] = weights[
                f"fgcnn_layer.conv_layers.{layer}.1.{part}"
            ]
    kernels = [weights[f"fgcnn_layer.conv_layers.{layer}.0.weight"] for layer in range(layers)]
    return {
        "channels": [len(kernel) for kernel in kernels],
        "kernel_heights": [kernel.shape[2] for kernel in kernels],
        "pooling_sizes": np.broadcast_to(
            config["pooling_sizes"], layers
        ).tolist(),  # one number there stands for all layers
        "recombined_channels": np.broadcast_to(config["recombined_channels"], layers).tolist(),
        "batch_norm": batch_norm,
        "share_embedding": "fg_embedding_layer.embedding_layer.embedding_layers.f0.weight" not in weights,
    }


def _prediction(backbone: str, weights: Weights, output: tuple[np.ndarray, np.ndarray] | None) -> Weights:
    if backbone == "fm":
        return {"prediction.bias": weights["fm.lr_layer.bias"]}
    if backbone == "fignn":
        return {
            "prediction.score.weight": weights["fc.mlp1.weight"],
            "prediction.weight.weight": weights["fc.mlp2.0.weight"],
        }
    if backbone == "deepfm":
        assert output is not None
        return {
            "prediction.deep.weight": output[0],
            "prediction.deep.bias": output[1] + weights["fm.lr_layer.bias"],
        }
    # One linear layer on q = the published layers on its parts, side by side
    parts = [
        (weights[f"{name}.weight"], weights[f"{name}.bias"])
        for name in ("cin.fc", "fc")
        if f"{name}.weight" in weights
    ]
    parts += [output] if output else []
    return {
        "prediction.weight": np.concatenate([part[0] for part in parts], axis=1),
        "prediction.bias": sum(part[1] for part in parts),
    }  # pyright: ignore
