"""A training loop as one writes it without Ray, DeepSpeed or a stream: the baseline of `overhead` and
`scaling`.

It has the same model, weights, loss, clipping and AdamW, on the same rows, masks and dropout; the batches are
collated before it starts.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clickprompt.config import Config
from clickprompt.data.batch import Batch
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.models.build import build_model
from clickprompt.objectives import PretrainLoss
from clickprompt.training.optimizers import build_optimizer, set_learning_rates
from clickprompt.training.precision import at_precision

__all__ = ["BareLoop"]


@dataclass(frozen=True)
class BareLoop:
    """PA-MLM on the first `num_steps` global batches, in `num_workers` processes: DistributedDataParallel if
    there are several.
    """

    config: Config
    dataset: Dataset
    order: Order
    num_workers: int
    num_steps: int
    rendezvous: str
    """a file that doesn't exist yet, instead of a port that others could reach"""

    def __call__(self, rank: int, pace: Callable[[Iterable[Any], int], Iterator[Any]]) -> list[float]:
        """Run in the process of that rank; `pace` hands the batches on. Return this rank's part of each
        step's loss.
        """
        torch.set_flush_denormal(True)
        stage = self.config.pretrain
        runtime = self.config.runtime
        device = torch.device("cuda" if runtime.gpus_per_worker else "cpu")
        model = build_model(self.config, layout_of(self.dataset), objective="pretrain").to(device)
        objective = PretrainLoss(model).train()
        optimizer = build_optimizer(model, stage)
        replica: Any = at_precision(objective, runtime.precision, device)
        if self.num_workers > 1:
            os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
            backend = "nccl" if runtime.gpus_per_worker else "gloo"
            dist.init_process_group(
                backend, init_method=f"file://{self.rendezvous}", rank=rank, world_size=self.num_workers
            )
            replica = DistributedDataParallel(replica)
        losses = []
        for step, micro_batches, targets in pace(self._recorded(rank, objective), rank):
            torch.manual_seed(
                int(
                    np.random.SeedSequence([self.config.seed, step, rank]).generate_state(1, np.uint64)[0]
                    >> 1
                )
            )
            set_learning_rates(optimizer, step, self.order.total_steps, stage)
            loss = torch.zeros(1, device=device)
            for index, batch in enumerate(batch.to(device) for batch in micro_batches):
                waits = self.num_workers > 1 and index < len(micro_batches) - 1
                with replica.no_sync() if waits else contextlib.nullcontext():
                    part = replica(batch) / targets
                    (part * self.num_workers).backward()
                loss += part.detach()
            nn.utils.clip_grad_norm_(model.parameters(), stage.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss)
        if self.num_workers > 1:
            dist.destroy_process_group()
        return [loss.item() for loss in losses]

    def _recorded(self, rank: int, objective: PretrainLoss) -> list[tuple[int, list[Batch], float]]:
        """Return (step, this rank's micro-batches, targets of the global batch)."""
        config, stage = self.config, self.config.pretrain
        table = open_model_table(self.dataset, load_tokenizer(config.plm.path), config.plm)
        collator = Collator(
            layout_of(self.dataset),
            table,
            config.masking,
            max_length=config.plm.max_length,
            seed=config.seed,
            id_dropout=config.data.id_dropout,
            label_share=config.finetune.label_share,
        )
        recorded = []
        batches = read_local_batches(self.dataset, self.order, rank=rank, num_workers=self.num_workers)
        for _, (step, columns) in zip(range(self.num_steps), batches, strict=False):
            micro_batches = collator.micro_batches(columns, stage.micro_batch_size, self.order.epoch_of(step))
            targets = torch.stack([objective.count_targets(batch).double() for batch in micro_batches]).sum()
            if self.num_workers > 1:
                dist.all_reduce(targets)
            recorded.append((step, micro_batches, targets.item()))
        return recorded
