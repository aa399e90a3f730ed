"""Settings of where a run goes: cluster, workers, engine, precision, evaluation, failures, trackers."""

from typing import Any, Literal

from pydantic import Field, field_validator

from clickprompt.config.base import Frozen, Precision

__all__ = ["RuntimeConfig"]


class RuntimeConfig(Frozen):
    """Where and on how many processes a run goes."""

    address: str = Field(
        default="local",
        description="'local' = an embedded Ray of this command's own; 'auto' or host:port = a cluster",
    )
    num_workers: int | tuple[int, int] = Field(
        default=1,
        description="of a training; [min, max]: as many as the cluster has room for, and more or fewer when "
        "that changes",
    )
    node_groups: Literal["auto", "require", "ignore"] = Field(
        default="auto",
        description="training workers on nodes labelled clickprompt.io/group=training, data tasks and "
        "evaluation on CPUs on nodes labelled "
        "=data: auto: where there are such nodes; require: also where they are yet to be started",
    )
    autoscaling: bool = Field(
        default=False,
        description="the cluster adds nodes when they are asked for: a run without room on those that are "
        "there waits for them "
        "(15 minutes) instead of being refused",
    )
    cpus_per_worker: float = Field(
        default=1,
        gt=0,
        description="Ray's logical CPUs, and a worker's threads; on one machine, 1 is no limit",
    )
    gpus_per_worker: float = Field(default=0, ge=0, description="0: training on CPUs")
    logical_cpus: int | None = Field(
        default=None, ge=1, description="CPUs an embedded Ray declares; default: what the run needs"
    )
    engine: Literal["torch", "deepspeed"] = Field(
        default="torch", description="plain DistributedDataParallel, or ZeRO"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(default=2, description="what DeepSpeed divides among the workers")
    precision: Precision = Field(
        default="fp32",
        description="of forward and backward passes; bf16: for GPUs, and CPUs that compute in it "
        "(AVX512-BF16, AMX); fp16: GPUs only",
    )
    offload: Literal["none", "cpu", "nvme"] = Field(
        default="none",
        description="DeepSpeed on GPUs: optimizer state in CPU memory (ZeRO 1-3), parameters too (ZeRO 3), "
        "or these on disk (nvme)",
    )
    offload_path: str | None = Field(
        default=None, description="a folder on a local disk of every worker, for offload=nvme"
    )
    evaluation_actors: int = Field(
        default=1, ge=1, description="that score, in `evaluate` and while a finetuning goes on"
    )
    gpus_per_evaluation_actor: float | None = Field(
        default=None,
        ge=0,
        description="default: gpus_per_worker. While a finetuning goes on they come on top of its workers'; "
        "0: on CPUs",
    )
    evaluation_timeout: float = Field(
        default=3600,
        gt=0,
        description="seconds in which the next row group of a validation must be scored, or the run ends",
    )
    max_failures: int = Field(default=3, ge=0, description="worker-group restarts before the run is given up")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="resume checkpoints that stay: the last so many"
    )
    keep_every: int | None = Field(
        default=None,
        ge=1,
        description="copies of the checkpoints after every so many steps stay in <run>/kept",
    )
    mlflow: str | None = Field(
        default=None,
        description="also send metrics to this MLflow: a server's or a database's URI; who asks says the "
        "environment",
    )
    wandb: str | None = Field(
        default=None,
        description="also send metrics to this project of Weights & Biases; who asks says the environment",
    )
    deterministic: bool = Field(
        default=False, description="torch's deterministic algorithms only, in workers; slower"
    )

    @field_validator("num_workers", mode="before")
    @classmethod
    def _one_number_or_two(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list | tuple) else [value]
        if (
            not all(type(number) is int and number >= 1 for number in numbers)
            or len(numbers) > 2
            or list(numbers) != sorted(numbers)
        ):
            raise ValueError(
                "give a number of workers from 1 up, or [min, max] for as many as there is room for"
            )
        return value if len(numbers) < 2 else tuple(numbers)

    @property
    def evaluation_gpus(self) -> float:
        return (
            self.gpus_per_worker if self.gpus_per_evaluation_actor is None else self.gpus_per_evaluation_actor
        )

    @property
    def min_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]
