"""The published CTR models as plain loops over one row in float64, on weights named as in the golden files.

`made_up` draws such a file of any size. Nothing here is shared with clickprompt.
"""

import json
import math
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def made_up(
    backbone: str, vocab_sizes: list[int], dim: int, seed: int = 0, rows: int = 5, **config: Any
) -> dict[str, np.ndarray]:
    """A golden file's arrays: random weights and ids, and what the loops below make of them ("q" and "logit"
    besides).
    """
    rng = np.random.default_rng(seed)
    weights = _draw(backbone, vocab_sizes, dim, config, rng)
    ids = np.stack([rng.integers(0, size, rows) for size in vocab_sizes], axis=1)
    pairs = [naive(backbone, config, weights, row) for row in ids]
    logit = np.array([logit for _, logit in pairs])
    return {
        "ids": ids,
        "vocab_sizes": np.array(vocab_sizes),
        "config": np.array(json.dumps(config)),
        "probability": 1 / (1 + np.exp(-logit)),
        "q": np.stack([q for q, _ in pairs]),
        "logit": logit,
        **{f"w/{name}": array for name, array in weights.items()},
    }


def naive(backbone: str, config: dict[str, Any], w: Weights, ids: np.ndarray) -> tuple[np.ndarray, float]:
    """One row: ids [F] → (q, logit)."""
    e = [w[f"embedding_layer.embedding_layer.embedding_layers.f{j}.weight"][i] for j, i in enumerate(ids)]
    flat = np.concatenate(e)
    if backbone == "fm":
        q = _pair_products(e)
        return q, q.sum() + _linear_terms(w, ids, "fm.") + w["fm.lr_layer.bias"][0]
    if backbone == "dnn":
        hidden, output = _mlp(w, "mlp", flat, len(config["hidden_units"]))
        return hidden, output
    if backbone == "deepfm":
        bi = _pair_products(e)
        hidden, output = _mlp(w, "mlp", flat, len(config["hidden_units"]))
        return np.concatenate([bi, hidden]), bi.sum() + _linear_terms(w, ids, "fm.") + w["fm.lr_layer.bias"][
            0
        ] + output
    if backbone == "xdeepfm":
        pooled = _cin(w, e, config["cin_hidden_units"])
        hidden, output = _mlp(w, "dnn", flat, len(config["dnn_hidden_units"]))
        logit = w["cin.fc.weight"][0] @ pooled + w["cin.fc.bias"][0] + _linear_terms(w, ids, "") + output
        return np.concatenate([pooled, hidden]), logit
    if backbone == "ipnn":
        return _mlp(w, "dnn", np.concatenate([flat, _inner_products(e)]), len(config["hidden_units"]))
    if backbone in ("dcn", "dcnv2"):
        return _dcn(backbone, config, w, flat)
    if backbone == "autoint":
        x = np.stack(e)
        for layer in range(config["attention_layers"]):
            x = _attention(w, f"self_attention.{layer}", x, config["num_heads"])
        q = x.reshape(-1)
        logit = w["fc.weight"][0] @ q + w["fc.bias"][0]
        if config["dnn_hidden_units"]:
            hidden, output = _mlp(w, "dnn", flat, len(config["dnn_hidden_units"]))
            return np.concatenate([q, hidden]), logit + output
        return q, logit
    if backbone == "fignn":
        return _fignn(config, w, e)
    assert backbone == "fgcnn"
    tables = "embedding_layer" if config["share_embedding"] else "fg_embedding_layer"
    own = [w[f"{tables}.embedding_layer.embedding_layers.f{j}.weight"][i] for j, i in enumerate(ids)]
    fields = e + _new_fields(config, w, np.stack(own))
    return _mlp(w, "dnn", np.concatenate([*fields, _inner_products(fields)]), len(config["dnn_hidden_units"]))


def _linear_terms(w: Weights, ids: np.ndarray, prefix: str) -> float:
    return sum(
        w[f"{prefix}lr_layer.embedding_layer.embedding_layer.embedding_layers.f{j}.weight"][i, 0]
        for j, i in enumerate(ids)
    )


def _pair_products(e: list[np.ndarray]) -> np.ndarray:
    return sum((e[i] * e[j] for i in range(len(e)) for j in range(i + 1, len(e))), np.zeros_like(e[0]))


def _inner_products(e: list[np.ndarray]) -> np.ndarray:
    return np.array([e[i] @ e[j] for i in range(len(e)) for j in range(i + 1, len(e))])


def _mlp(w: Weights, prefix: str, x: np.ndarray, num_hidden: int) -> tuple[np.ndarray, float]:
    """(last hidden layer, what the output layer makes of it; 0 where the tower has none)."""
    for layer in range(num_hidden):
        x = np.maximum(w[f"{prefix}.mlp.{2 * layer}.weight"] @ x + w[f"{prefix}.mlp.{2 * layer}.bias"], 0)
    output = f"{prefix}.mlp.{2 * num_hidden}"
    return x, (w[f"{output}.weight"] @ x + w[f"{output}.bias"])[0] if f"{output}.weight" in w else 0.0


def _cin(w: Weights, e: list[np.ndarray], units: list[int]) -> np.ndarray:
    x, pooled = e, []
    for layer, unit in enumerate(units, start=1):
        weight, bias = w[f"cin.cin_layer.layer_{layer}.weight"], w[f"cin.cin_layer.layer_{layer}.bias"]
        rows = []
        for o in range(unit):
            row = np.full_like(e[0], bias[o])
            for f in range(len(e)):
                for h in range(len(x)):
                    row = row + weight[o, f * len(x) + h, 0] * e[f] * x[h]
            rows.append(row)
        x = rows
        pooled += [row.sum() for row in x]
    return np.array(pooled)


def _dcn(backbone: str, config: dict[str, Any], w: Weights, flat: np.ndarray) -> tuple[np.ndarray, float]:
    x = flat
    for layer in range(config["num_cross_layers"]):
        if backbone == "dcn":
            net = f"crossnet.cross_net.{layer}"
            x = flat * (w[f"{net}.weight.weight"][0] @ x) + w[f"{net}.bias"] + x
        else:
            net = f"crossnet.cross_layers.{layer}"
            x = flat * (w[f"{net}.weight"] @ x + w[f"{net}.bias"]) + x
    if "stacked_dnn_hidden_units" in config:
        q, _ = _mlp(w, "stacked_dnn", x, len(config["stacked_dnn_hidden_units"]))
    else:
        name = "dnn" if backbone == "dcn" else "parallel_dnn"
        hidden, _ = _mlp(w, name, flat, len(config[f"{name}_hidden_units"]))
        q = np.concatenate([x, hidden])
    return q, w["fc.weight"][0] @ q + w["fc.bias"][0]


def _attention(w: Weights, name: str, x: np.ndarray, num_heads: int) -> np.ndarray:
    query, key, value = (
        [w[f"{name}.{part}.weight"] @ field for field in x] for part in ("W_q", "W_k", "W_v")
    )
    residual = [w[f"{name}.W_res.weight"] @ field for field in x] if f"{name}.W_res.weight" in w else list(x)
    size = len(query[0]) // num_heads
    fields = []
    for i in range(len(x)):
        attended = []
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            scores = np.exp([query[i][part] @ key[j][part] for j in range(len(x))])
            attended.append(sum(scores[j] / scores.sum() * value[j][part] for j in range(len(x))))
        fields.append(np.maximum(np.concatenate(attended) + residual[i], 0))
    return np.stack(fields)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _gru(w: Weights, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    from_x = np.split(w["fignn.gru.weight_ih"] @ x + w["fignn.gru.bias_ih"], 3)
    from_h = np.split(w["fignn.gru.weight_hh"] @ h + w["fignn.gru.bias_hh"], 3)
    reset, update = _sigmoid(from_x[0] + from_h[0]), _sigmoid(from_x[1] + from_h[1])
    return (1 - update) * np.tanh(from_x[2] + reset * from_h[2]) + update * h


def _fignn(config: dict[str, Any], w: Weights, e: list[np.ndarray]) -> tuple[np.ndarray, float]:
    num_fields = len(e)
    graph = np.zeros((num_fields, num_fields))
    for i in range(num_fields):
        others = [j for j in range(num_fields) if j != i]
        scores = [w["fignn.W_attn.weight"][0] @ np.concatenate([e[i], e[j]]) for j in others]
        scores = np.exp([score if score > 0 else 0.01 * score for score in scores])
        graph[i, others] = scores / scores.sum()
    h = list(e)
    for step in range(config["gnn_layers"]):
        name = "fignn.gnn" if config["reuse_graph_layer"] else f"fignn.gnn.{step}"
        sent = [w[f"{name}.W_out"][j] @ h[j] for j in range(num_fields)]
        heard = [sum(graph[i, j] * sent[j] for j in range(num_fields)) for i in range(num_fields)]
        h = [
            _gru(w, w[f"{name}.W_in"][i] @ heard[i] + w[f"{name}.bias_p"], h[i]) + e[i]
            for i in range(num_fields)
        ]
    q = np.concatenate(h)
    weights = _sigmoid(w["fc.mlp2.0.weight"] @ q)
    return q, sum(weights[j] * (w["fc.mlp1.weight"][0] @ h[j]) for j in range(num_fields))


def _new_fields(config: dict[str, Any], w: Weights, x: np.ndarray) -> list[np.ndarray]:
    """x [H, d]; the new fields of every convolution, in order."""
    channels, fields = [x], []
    for layer, pool in enumerate(config["pooling_sizes"]):
        name = f"fgcnn_layer.conv_layers.{layer}"
        weight, bias = w[f"{name}.0.weight"][..., 0], w[f"{name}.0.bias"]
        height, dim = channels[0].shape
        outputs = []
        for o in range(len(weight)):
            out = np.full((height, dim), bias[o])
            for y in range(height):
                for c, channel in enumerate(channels):
                    for k in range(weight.shape[2]):
                        row = y + k - weight.shape[2] // 2
                        if 0 <= row < height:
                            out[y] += weight[o, c, k] * channel[row]
            if config["conv_batch_norm"]:
                mean, var = w[f"{name}.1.running_mean"][o], w[f"{name}.1.running_var"][o]
                out = (out - mean) / math.sqrt(var + 1e-5) * w[f"{name}.1.weight"][o] + w[f"{name}.1.bias"][o]
            outputs.append(_max_pool(np.tanh(out), pool))
        channels = outputs
        recombine = f"fgcnn_layer.recombine_layers.{layer}.0"
        flat = np.concatenate([channel.reshape(-1) for channel in channels])
        fields += list(np.tanh(w[f"{recombine}.weight"] @ flat + w[f"{recombine}.bias"]).reshape(-1, dim))
    return fields


def _max_pool(x: np.ndarray, pool: int) -> np.ndarray:
    height = len(x)
    first = -(height % pool)
    windows = math.ceil(height / pool)
    if first + windows * pool < height:  # the published rule would leave rows out
        first = height - windows * pool
    rows = [
        [row for row in range(first + i * pool, first + (i + 1) * pool) if 0 <= row < height]
        for i in range(windows)
    ]
    return np.stack([x[window].max(axis=0) for window in rows])


def _draw(
    backbone: str, vocab_sizes: list[int], dim: int, config: dict[str, Any], rng: np.random.Generator
) -> Weights:
    """Random weights of scale 1/√fan-in, under the golden files' names."""
    w: Weights = {}

    def draw(name: str, *shape: int, scale: float = 1.0) -> None:
        w[name] = rng.normal(0, scale, shape)

    def dense(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        draw(f"{name}.weight", outputs, inputs, scale=inputs**-0.5)
        if bias:
            draw(f"{name}.bias", outputs, scale=0.3)

    def mlp(name: str, inputs: int, units: list[int], output: bool = True) -> None:
        for layer, unit in enumerate([*units, 1] if output else units):
            dense(f"{name}.mlp.{2 * layer}", inputs, unit)
            inputs = unit

    def tables(name: str, width: int) -> None:
        for j, size in enumerate(vocab_sizes):
            draw(f"{name}.embedding_layer.embedding_layers.f{j}.weight", size, width, scale=0.6)

    num_fields = len(vocab_sizes)
    flat = num_fields * dim
    tables("embedding_layer", dim)
    if backbone in ("fm", "deepfm"):
        tables("fm.lr_layer.embedding_layer", 1)
        draw("fm.lr_layer.bias", 1)
    if backbone in ("dnn", "deepfm"):
        mlp("mlp", flat, config["hidden_units"])
    if backbone == "xdeepfm":
        tables("lr_layer.embedding_layer", 1)
        mlp("dnn", flat, config["dnn_hidden_units"])
        inputs = num_fields
        for layer, unit in enumerate(config["cin_hidden_units"], start=1):
            draw(f"cin.cin_layer.layer_{layer}.weight", unit, num_fields * inputs, 1)
            draw(f"cin.cin_layer.layer_{layer}.bias", unit)
            inputs = unit
        dense("cin.fc", sum(config["cin_hidden_units"]), 1)
    if backbone == "ipnn":
        w["inner_product_layer.triu_mask"] = np.triu(np.ones((num_fields, num_fields), bool), 1)
        mlp("dnn", flat + num_fields * (num_fields - 1) // 2, config["hidden_units"])
    if backbone in ("dcn", "dcnv2"):
        units_key = next(key for key in config if key.endswith("hidden_units"))
        mlp(units_key.removesuffix("_hidden_units"), flat, config[units_key], output=False)
        for layer in range(config["num_cross_layers"]):
            if backbone == "dcn":
                draw(f"crossnet.cross_net.{layer}.weight.weight", 1, flat, scale=flat**-0.5)
                draw(f"crossnet.cross_net.{layer}.bias", flat, scale=0.3)
            else:
                dense(f"crossnet.cross_layers.{layer}", flat, flat)
        dense("fc", config[units_key][-1] + (0 if units_key.startswith("stacked") else flat), 1)
    if backbone == "autoint":
        inputs, size = dim, config["attention_dim"]
        for layer in range(config["attention_layers"]):
            for part in ("W_q", "W_k", "W_v", *(["W_res"] if inputs != size else [])):
                dense(f"self_attention.{layer}.{part}", inputs, size, bias=False)
            inputs = size
        dense("fc", num_fields * size, 1)
        if config["dnn_hidden_units"]:
            mlp("dnn", flat, config["dnn_hidden_units"])
    if backbone == "fignn":
        for layer in (
            ("",) if config["reuse_graph_layer"] else [f"{layer}." for layer in range(config["gnn_layers"])]
        ):
            draw(f"fignn.gnn.{layer}W_in", num_fields, dim, dim, scale=dim**-0.5)
            draw(f"fignn.gnn.{layer}W_out", num_fields, dim, dim, scale=dim**-0.5)
            draw(f"fignn.gnn.{layer}bias_p", dim)
        for part in ("ih", "hh"):
            draw(f"fignn.gru.weight_{part}", 3 * dim, dim)
            draw(f"fignn.gru.bias_{part}", 3 * dim)
        dense("fignn.W_attn", 2 * dim, 1, bias=False)
        dense("fc.mlp1", dim, 1, bias=False)
        dense("fc.mlp2.0", flat, num_fields, bias=False)
    if backbone == "fgcnn":
        if not config["share_embedding"]:
            tables("fg_embedding_layer", dim)
        channels, height, fields = 1, num_fields, num_fields
        for layer, outputs in enumerate(config["channels"]):
            name, kernel = f"fgcnn_layer.conv_layers.{layer}", config["kernel_heights"][layer]
            draw(f"{name}.0.weight", outputs, channels, kernel, 1)
            draw(f"{name}.0.bias", outputs)
            if config["conv_batch_norm"]:
                for part in ("weight", "bias", "running_mean"):
                    draw(f"{name}.1.{part}", outputs)
                w[f"{name}.1.running_var"] = rng.uniform(0.5, 2, outputs)
            height = math.ceil(height / config["pooling_sizes"][layer])
            recombined = config["recombined_channels"][layer] * height
            dense(f"fgcnn_layer.recombine_layers.{layer}.0", outputs * height * dim, recombined * dim)
            channels, fields = outputs, fields + recombined
        mlp("dnn", fields * dim + fields * (fields - 1) // 2, config["dnn_hidden_units"])
    return w
