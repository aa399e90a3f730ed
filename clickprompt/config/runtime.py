"""Settings of where and how a run executes: cluster, workers, engine, precision, evaluation, failures,
trackers.
"""

from typing import Any, Literal

from pydantic import Field, field_validator

from clickprompt.config.base import Frozen, Precision, ScoringPrecision

__all__ = ["RuntimeConfig"]


class RuntimeConfig(Frozen):
    """Where a run executes, and on how many processes."""

    address: str = Field(
        default="local",
        description="'local': an embedded Ray that belongs to this command; 'auto' or host:port: a cluster",
    )
    use_ray: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="auto: work in the command's own process where one worker on this machine was asked for, "
        "and on Ray otherwise; never: refuse what needs Ray",
    )
    num_workers: int | tuple[int, int] = Field(
        default=1,
        description="number of training workers; [min, max]: as many as the cluster has room for, "
        "adjusted when that changes",
    )
    node_groups: Literal["auto", "require", "ignore"] = Field(
        default="auto",
        description="auto: if the nodes exist, put training workers on those labelled "
        "clickprompt.io/group=training, and data tasks and evaluation on CPUs on those "
        "labelled =data; require: also wait for such nodes to start",
    )
    autoscaling: bool = Field(
        default=False,
        description="the cluster adds nodes on demand: a run that finds no room waits up to 15 minutes "
        "for them instead of being refused",
    )
    cpus_per_worker: float = Field(
        default=1,
        gt=0,
        description="Ray's logical CPUs per worker, and a worker's threads; on one machine, 1 sets no limit",
    )
    gpus_per_worker: float = Field(default=0, ge=0, description="GPUs per training worker; 0: train on CPUs")
    logical_cpus: int | None = Field(
        default=None, ge=1, description="CPUs that an embedded Ray declares; default: what the run needs"
    )
    engine: Literal["torch", "deepspeed"] = Field(
        default="torch",
        description="torch: plain DistributedDataParallel; deepspeed: ZeRO, which one worker uses for "
        "`offload` only",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=2, description="ZeRO stage: what DeepSpeed divides among the workers"
    )
    compile: Literal["off", "default", "max-autotune"] = Field(
        default="off",
        description="have torch.compile translate the PLM's training step, which takes a minute or more at "
        "each start; max-autotune: try several kernels first, and on GPUs replay CUDA graphs, one for each "
        "width of a micro-batch, which is padded to a multiple of 16 tokens",
    )
    precision: Precision = Field(
        default="fp32",
        description="number format of forward and backward passes; bf16: for GPUs, and CPUs that "
        "compute in it (AVX512-BF16, AMX); fp16: for GPUs only",
    )
    scoring_precision: ScoringPrecision = Field(
        default="fp32",
        description="number format of the PLM's matrix products in validations, `evaluate` and `predict`; "
        "logits are fp32; tf32: on GPUs; bf16: as for precision",
    )
    offload: Literal["none", "cpu", "nvme"] = Field(
        default="none",
        description="DeepSpeed on GPUs; cpu: keep optimizer state in CPU memory (ZeRO 1-3), parameters too "
        "(ZeRO 3); nvme: the parameters on disk (ZeRO 3)",
    )
    offload_path: str | None = Field(
        default=None, description="folder on a local disk of every worker, for offload=nvme"
    )
    evaluation_actors: int = Field(
        default=1, ge=1, description="number of workers that score, in `evaluate` and during finetuning"
    )
    gpus_per_evaluation_actor: float | None = Field(
        default=None,
        ge=0,
        description="GPUs per scoring worker, in addition to the training workers' during finetuning; "
        "0: score on CPUs; default: gpus_per_worker",
    )
    evaluation_timeout: float = Field(
        default=3600,
        gt=0,
        description="seconds within which the next row group of a validation must be scored; otherwise "
        "the run ends",
    )
    max_failures: int = Field(
        default=3, ge=0, description="number of restarts of the worker group before the run is given up"
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="number of resume checkpoints to keep, counted from the newest"
    )
    keep_every: int | None = Field(
        default=None,
        ge=1,
        description="keep copies of the checkpoints after every so many steps in <run>/kept",
    )
    mlflow: str | None = Field(
        default=None,
        description="also send metrics to this MLflow: URI of a server or a database; credentials come "
        "from the environment",
    )
    wandb: str | None = Field(
        default=None,
        description="also send metrics to this project of Weights & Biases; credentials come from the "
        "environment",
    )
    deterministic: bool = Field(
        default=False, description="use only torch's deterministic algorithms in workers; slower"
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
    def scoring_device(self) -> str:
        """Return the device that evaluation actors compute on, by torch's name."""
        return "cuda" if self.evaluation_gpus else "cpu"

    def engine_of(self, num_workers: int) -> Literal["torch", "deepspeed"]:
        """Return the engine that so many workers use.

        One worker has no others to divide anything with; ZeRO would only flatten its weights.
        """
        return self.engine if num_workers > 1 or self.offload != "none" else "torch"

    def engine_name(self, num_workers: int) -> str:
        """Name the engine of so many workers as records and remarks have it."""
        return f"ZeRO-{self.zero_stage}" if self.engine_of(num_workers) == "deepspeed" else "plain torch"

    @property
    def min_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]
