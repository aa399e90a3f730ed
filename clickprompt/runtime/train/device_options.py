"""Check that engine, precision, offload and compilation go together, before a training starts."""

from clickprompt.config import Config, RuntimeConfig
from clickprompt.errors import ConfigError
from clickprompt.training.compiled import check_compiler
from clickprompt.training.eight_bit import check_eight_bit

__all__ = ["check_devices", "check_optimizer", "check_plm_options"]


def check_devices(runtime: RuntimeConfig) -> None:
    """Raise ConfigError for settings that the devices or the engine can't follow."""
    if not runtime.gpus_per_worker:
        if runtime.precision == "fp16":
            raise ConfigError(
                "runtime.precision=fp16 without GPUs would only be slower; set runtime.gpus_per_worker=1, "
                "use bf16 or leave it out"
            )
        if runtime.offload != "none":
            raise ConfigError(
                f"runtime.offload={runtime.offload} moves state off GPUs, and there are none; set "
                "runtime.gpus_per_worker=1 or leave it out"
            )
    if runtime.offload == "none":
        return
    if runtime.engine != "deepspeed":
        raise ConfigError(f"runtime.offload={runtime.offload} is DeepSpeed's; set runtime.engine=deepspeed")
    lowest = 3 if runtime.offload == "nvme" else 1
    if runtime.zero_stage < lowest:
        raise ConfigError(
            f"runtime.offload={runtime.offload} needs "
            f"runtime.zero_stage={lowest}{'' if lowest == 3 else ' or more'}, "
            f"not {runtime.zero_stage}, which has nothing divided to move"
        )
    if runtime.offload == "nvme" and not runtime.offload_path:
        raise ConfigError(
            "runtime.offload=nvme needs runtime.offload_path, a folder on a local disk of every worker"
        )


def check_optimizer(config: Config) -> None:
    """Raise ConfigError for moments in 8 bits on an engine that has none. bitsandbytes need not be there."""
    runtime = config.runtime
    if config.plm.optimizer_bits == 8 and runtime.engine_of(runtime.max_workers) == "deepspeed":
        raise ConfigError(
            "plm.optimizer_bits=8: its blocks are of whole parameters, which DeepSpeed flattens and divides; "
            "use runtime.engine=torch, or leave it out"
        )


def check_plm_options(config: Config) -> None:
    """Raise ConfigError for settings that a training with the PLM can't follow."""
    runtime, plm = config.runtime, config.plm
    deepspeed = runtime.engine_of(runtime.max_workers) == "deepspeed"
    if deepspeed and plm.dtype != "float32":
        raise ConfigError(
            f"plm.dtype={plm.dtype}: DeepSpeed keeps one type of weights; use runtime.precision or "
            "engine=torch"
        )
    check_optimizer(config)
    if plm.optimizer_bits == 8:
        check_eight_bit()
    if runtime.compile == "off":
        return
    for excluded, remedy in (
        (plm.gradient_checkpointing, "plm.gradient_checkpointing=true; set it to false"),
        (plm.attn_implementation == "flash", "plm.attn_implementation=flash; set it to sdpa"),
        (
            deepspeed and runtime.zero_stage == 3,
            "runtime.zero_stage=3, which gathers weights layer by layer; set it to 2",
        ),
    ):
        if excluded:
            raise ConfigError(f"runtime.compile={runtime.compile} can't be combined with {remedy}")
    if runtime.address == "local":  # elsewhere the workers look
        check_compiler(runtime)
