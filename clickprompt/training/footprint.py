"""Estimate the memory that one worker needs for training, by formula.

The model need not be there; torch's meta device will do. With w bytes of weights, of which t are trained,
AdamW's two moments and N workers (ZeRO, Rajbhandari et al. 2020, Figure 1, with fp32 weights in place of
mixed precision; ZeRO keeps a copy of the weights that it divides):

    engine, stage   weights   gradients   optimizer
    torch, 0        w         t           2t
    1               w         t           3t / N
    2               w         t / N       3t / N
    3               w / N     t / N       3t / N

Lazy tables (training/lazy/embedding.py) take rows · (12 · width + 8) bytes for weights, two moments, last
step and position, whole on every worker. Of sharded ones (training/lazy/sharded.py) a worker has rows / N, of
12 · width + 4 bytes each.

Given vectors (`ctr.vectors`) take 2 bytes a number, whole on every worker, which are counted as weights.
With `plm.master_weights` a trained bf16 weight takes 2 bytes, its gradient 4, its fp32 copy and moments 12.
With `plm.optimizer_bits: 8` both moments of the PLM's matrices (training/eight_bit.py) take 2 bytes an
element and 8 for each 256 elements; on a CPU, a step makes five fp32 copies of one matrix at a time.

Copies are the larger of two moments of the backward pass:

- As it begins, beside the activations: under autocast the casts of the matrices, 2 bytes an element (with
  gradient checkpointing not those of the layers).
- As it ends: in ZeRO 0 the gradients in the buckets that are averaged, t. From ZeRO 1 on the largest
  parameter's gradient twice. In ZeRO 2 with several micro-batches, and in ZeRO 3 as measured, one more share
  of the gradients, t / N. Plain torch's gradients lie in their buckets and have no copies; but with several
  workers the buckets stay, so on CPUs the first worker has the export's copy of the weights, w, beside them.
- At both in ZeRO 3: the gathered weights, w, which DeepSpeed releases above 1e9 elements only.
- On GPUs DeepSpeed's buckets of GPU_BUCKET elements come on top: two in ZeRO 1 and 2, one in ZeRO 3.

One worker without offload is plain torch whatever `runtime.engine` says.

Activations are what the backward pass of a micro-batch of B rows of Z tokens needs (H hidden size,
I intermediate size, A heads, L layers, K prompts, V vocabulary, s = 4 bytes a number, or 2 under autocast):

    a layer   B Z (38 H + 8 I) in fp32; B Z (28 H + 4 I) under autocast, which casts what each linear map
              reads and leaves norms in fp32. A gated MLP has 16 I and 8 I instead. Attention weights, where
              no kernel recomputes them (eager; dropout on a CPU): A B Z (Z + K) 4 s
    prompts   B L K H (4 s + 16): the projector's hidden layer and output, keys and values, and their
              gradients
    LM head   M V (8 + s) for M target tokens: logits, log-probabilities and a gradient
    P5        its decoder, of one token, isn't counted, and M is B
    CTRL      12 N^2 M^2, for the similarities of all N rows of the global batch in M^2 pairs of sub-spaces
    texts     6 B F H for text vectors of size H of F fields: as they are read (fp16), and cast to fp32
    id heads  12 B r C, for the share r of the values that are restored and C candidates of all fields: all
              values, or id_candidates a field

What `masking.vocabulary: dataset`, `plm.last_layer: targets` and `plm.lora` (which needs no inputs of frozen
matrices) save isn't subtracted, so with them the activations are an upper bound.

With gradient checkpointing a layer leaves its input, B Z H 4, and one layer at a time has the above; of each
n-th layer alone (`plm.gradient_checkpointing: n`), ⌈L / n⌉ do.

These are estimates; how near they come is in docs/guide/sizing.md and tested by
tests/training/test_footprint.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from clickprompt.config import Config, StageConfig
from clickprompt.models.baselines.ctrl import CTRL
from clickprompt.models.baselines.p5 import P5
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.models.id_heads import RestoringHead
from clickprompt.models.layers import PackedEmbedding
from clickprompt.models.parameter_groups import group_of
from clickprompt.training.eight_bit import eight_bit_parameters, moment_bytes

if TYPE_CHECKING:
    from clickprompt.models.plm import PromptedPLM  # transformers' models take seconds to import

__all__ = [
    "GPU_BUCKET",
    "Footprint",
    "activation_bytes",
    "built_bytes",
    "count_parameters",
    "footprint",
    "model_states",
]

GPU_BUCKET = 25_000_000
"""elements of DeepSpeed's buckets on GPUs, 100 MB of fp32: about ten leave during the backward pass of a
RoBERTa-large. DeepSpeed's own 5e8 hold all of its gradients, which would leave after it."""

_MAX_LIVE = 1_000_000_000  # elements that ZeRO 3 leaves gathered


@dataclass(frozen=True)
class Footprint:
    """Bytes that one worker needs at the peak of a step, on its GPU or, without one, in its process.

    The libraries of a process come on top.
    """

    weights: int
    gradients: int
    optimizer: int
    lazy_tables: int
    activations: int
    copies: int
    """at the peak, beside or in place of the activations"""
    offloaded: int
    """in the memory of the worker's machine (with `offload: nvme` partly on its disk); not in the total"""

    @property
    def total(self) -> int:
        return (
            self.weights + self.gradients + self.optimizer + self.lazy_tables + self.activations + self.copies
        )


def model_states(
    weights: float, trained: float, num_workers: int, zero_stage: int | None
) -> tuple[float, float, float]:
    """Bytes of one worker's (weights, gradients, optimizer), from the bytes of all and of trained weights.

    zero_stage: None for plain torch.
    """
    gradients, optimizer = trained, 2 * trained
    if zero_stage:
        optimizer = 3 * trained / num_workers
        gradients = trained / num_workers if zero_stage >= 2 else trained
        weights = weights / num_workers if zero_stage == 3 else weights
    return weights, gradients, optimizer


def count_parameters(model: ClickPrompt) -> dict[str, int]:
    """Count the model's parameters by part: plm, projector, heads, ctr (without its tables), embeddings.

    Tied parameters count once, frozen ones too.
    """
    counts: dict[str, int] = dict.fromkeys(["plm", "projector", "heads", "ctr", "embeddings"], 0)
    tables = set(map(id, _table_weights(model)))
    for name, parameter in model.named_parameters():
        counts["embeddings" if id(parameter) in tables else group_of(name)] += parameter.numel()
    return counts


def footprint(
    model: ClickPrompt, config: Config, stage: StageConfig, tokens: int, num_targets: float
) -> Footprint:
    """Estimate the footprint of a worker that trains `model` on texts of `tokens` tokens each.

    num_targets: how many of a text's tokens are targets.
    """
    runtime = config.runtime
    tables = _table_weights(model) if stage.embedding_optimizer != "dense" else []
    kept = set(map(id, tables))
    parameters = [parameter for parameter in model.parameters() if id(parameter) not in kept]
    whole = _bytes(parameters)
    trained = _bytes(parameter for parameter in parameters if parameter.requires_grad)
    num_workers = runtime.min_workers
    zero_stage = runtime.zero_stage if runtime.engine_of(num_workers) == "deepspeed" else None
    weights, gradients, optimizer = model_states(whole, trained, num_workers, zero_stage)
    rows, of_row = len(tables[0]) if tables else 0, 12 * sum(table.shape[1] for table in tables) + 8
    if stage.embedding_optimizer == "sharded":
        rows, of_row = -(-rows // num_workers), of_row - 4
    if config.plm.master_weights:
        halves = _bytes(
            parameter
            for parameter in parameters
            if parameter.requires_grad and parameter.dtype == torch.bfloat16
        )
        # fp32 for gradient and moments, and the copy
        gradients, optimizer = gradients + halves, optimizer + 4 * halves
    in_8_bits = eight_bit_parameters(model) if config.plm.optimizer_bits == 8 else []
    for parameter in in_8_bits:
        size = 4 if config.plm.master_weights else parameter.element_size()
        optimizer += moment_bytes(parameter.numel()) - 2 * size * parameter.numel()
    offloaded = 0.0
    if runtime.offload != "none":
        offloaded, optimizer = optimizer, 0.0
        if zero_stage == 3:
            offloaded, weights = offloaded + weights, 0.0
    activations = activation_bytes(model, config, stage.micro_batch_size, tokens, num_targets)
    if isinstance(model, CTRL):
        activations += 12 * (stage.global_batch_size * config.ctrl.subspaces) ** 2
    largest = max(_bytes([parameter]) for parameter in parameters)
    begin, end = _moments(
        model, config, zero_stage, whole, trained, largest, several=stage.micro_batches(num_workers) > 1
    )
    if in_8_bits and not runtime.gpus_per_worker:
        end = max(end, 5 * 4 * max(parameter.numel() for parameter in in_8_bits))
    given = model.ctr.vectors if model.ctr is not None else None
    vectors = _bytes(one.table for one in given.of_field.values()) if given is not None else 0
    return Footprint(
        weights=int(weights) + vectors,
        gradients=int(gradients),
        optimizer=int(optimizer),
        lazy_tables=rows * of_row,
        activations=activations,
        copies=int(max(begin, end - activations)) + _buckets(config, zero_stage),
        offloaded=int(offloaded),
    )


def built_bytes(model: ClickPrompt, stage: StageConfig, num_workers: int) -> int:
    """Bytes of the weights that a worker builds: all of them, but only its rows of sharded tables."""
    whole = _bytes(model.parameters())
    if stage.embedding_optimizer != "sharded":
        return whole
    tables = _table_weights(model)
    own = sum(-(-len(table) // num_workers) * table.shape[1] * table.element_size() for table in tables)
    return whole - _bytes(tables) + own


def activation_bytes(model: ClickPrompt, config: Config, rows: int, tokens: int, num_targets: float) -> int:
    """Bytes of a micro-batch's activations, as in this file's docstring."""
    restored = _restored_bytes(model, config, rows)
    plm = model.plm
    if plm is None:  # only the CTR tower: what each of its maps reads and returns
        width = sum(
            sum(parameter.shape)
            for name, parameter in model.named_parameters()
            if name.startswith("ctr.backbone.")
        )
        texts = None if model.ctr is None else model.ctr.text_projection
        vectors = 0 if texts is None else 6 * rows * texts.weight[:, :, 0].numel()
        return rows * 8 * width + vectors + restored
    low = config.runtime.precision != "fp32"
    size = 2 if low else 4
    hidden, heads = plm.hidden_size, plm.config.num_attention_heads
    inner = (4 if plm.family.gated else 2) * size * _mlp_width(plm)
    prompts = model.prompt_projector.shape[1] if model.prompt_projector is not None else 0
    layer = rows * tokens * ((28 if low else 38) * hidden + inner)
    on_cpu = not config.runtime.gpus_per_worker
    if config.plm.attn_implementation == "eager" or (on_cpu and _attention_dropout(plm)):
        layer += heads * rows * tokens * (tokens + prompts) * 4 * size
    layers = plm.num_layers
    if isinstance(model, P5):  # its decoder reads and writes one token
        layers, num_targets = len(plm.backbone.get_submodule(plm.family.layers[0])), 1
    held = layers * layer
    if every := config.plm.gradient_checkpointing:
        recomputed = -(-layers // every)
        held = recomputed * rows * tokens * hidden * 4 + (layers - recomputed + 1) * layer
    restores = plm.lm_head is not None and not model.click_text
    head = rows * num_targets * plm.vocab_size * (8 + size) if restores else 0
    return int(held + rows * layers * prompts * hidden * (4 * size + 16) + head) + restored


def _restored_bytes(model: ClickPrompt, config: Config, rows: int) -> int:
    """Bytes of the logits of hidden ids, their log-probabilities and gradients."""
    masking, pretrain = config.masking, config.pretrain
    masked = masking.mask_rate if pretrain.with_plm else 0.0
    corrupted = pretrain.id_rate * (1 - masked)
    shares = {"id_head": corrupted + masking.hide_ids * masked, "text_id_head": corrupted}
    restored = sum(share for name, share in shares.items() if isinstance(getattr(model, name), RestoringHead))
    if not restored:
        return 0
    assert model.ctr is not None
    values, head = len(model.ctr.embedding.weight), model.id_head or model.text_id_head
    assert isinstance(head, RestoringHead)
    return int(12 * rows * restored * min(values, head.num_fields * pretrain.id_candidates))


def _moments(
    model: ClickPrompt,
    config: Config,
    zero_stage: int | None,
    whole: float,
    trained: float,
    largest: float,
    *,
    several: bool,
) -> tuple[float, float]:
    """Bytes beside the model's states as a backward pass begins (without activations) and as it ends.

    zero_stage: None for plain torch.

    largest: bytes of the largest parameter.
    """
    runtime = config.runtime
    begin = 2 * _matrix_elements(model, config) if runtime.precision != "fp32" else 0
    if zero_stage is None:
        return begin, whole if runtime.min_workers > 1 and not runtime.gpus_per_worker else 0
    if zero_stage == 0:
        return begin, trained
    share = trained / runtime.min_workers if zero_stage == 3 or (zero_stage == 2 and several) else 0
    gathered = min(whole, _MAX_LIVE * 4) if zero_stage == 3 else 0
    return begin + gathered, gathered + 2 * largest + share


def _buckets(config: Config, zero_stage: int | None) -> int:
    on_gpu = config.runtime.gpus_per_worker > 0
    return 4 * GPU_BUCKET * (0, 2, 2, 1)[zero_stage] if zero_stage and on_gpu else 0


def _matrix_elements(model: ClickPrompt, config: Config) -> int:
    """Count the elements that autocast casts and keeps for the backward pass.

    Embeddings aren't cast, except for the word table if the LM head multiplies by it.
    """
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding | PackedEmbedding)
    }
    if model.plm is not None and (every := config.plm.gradient_checkpointing):
        # These layers are cast again in recomputation
        embeddings |= {
            id(parameter) for layer in model.plm.layers[::every] for parameter in layer.parameters()
        }
    elements = sum(p.numel() for p in model.parameters() if p.ndim > 1 and id(p) not in embeddings)
    if (
        model.plm is not None
        and model.plm.lm_head is not None
        and model.plm.lm_head.weight is None
        and not model.click_text  # which multiplies by two of its rows
    ):
        elements += model.plm.backbone.get_input_embeddings().weight.numel()
    return elements


def _table_weights(model: ClickPrompt) -> list[nn.Parameter]:
    return [module.weight for module in model.modules() if isinstance(module, PackedEmbedding)]


def _mlp_width(plm: PromptedPLM) -> int:
    """Intermediate size I, which transformers' configurations call by several names or leave at 4 H."""
    named = getattr(plm.config, "intermediate_size", None)
    return named or max(max(p.shape) for layer in plm.layers for p in layer.parameters() if p.ndim == 2)


def _attention_dropout(plm: PromptedPLM) -> float:
    names = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "dropout_rate")
    return max(float(getattr(plm.config, name, 0.0) or 0.0) for name in names)


def _bytes(parameters: Iterable[Any]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
