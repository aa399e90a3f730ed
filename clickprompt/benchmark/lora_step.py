"""`clickprompt benchmark lora-step`: a training step with `plm.lora` beside one that trains all of the PLM.

MiniLM-L6 on MovieLens-100K, pretraining and finetuning with the PLM. A step is what a worker does with the
columns of its share of a global batch: collate, forward, backward, clip, AdamW. Both arms run on the same
rows, in fp32, on one thread, in processes of their own, and take turns after every micro-batch. Seconds are
those of their processors, so that waiting for other work on the machine doesn't count.
"""

import contextlib

from clickprompt.benchmark.inputs import benchmark_inputs
from clickprompt.benchmark.measure import Figures, arm, figure
from clickprompt.benchmark.pamlm_step import interleaved_steps, require_same
from clickprompt.benchmark.step_options import OptionSteps
from clickprompt.config import Config, ObjectiveName, replaced
from clickprompt.data.sources.fetch import fetch
from clickprompt.io import storage
from clickprompt.io.progress import say

__all__ = ["measure_lora_step"]

_PLM = "minilm-l6"
_RANK = 8
_ROWS, _MICRO_BATCH = 64, 32
_REPEATS = 5
_OBJECTIVES: tuple[ObjectiveName, ...] = ("pretrain", "with_plm")


def measure_lora_step(config: Config, repeats: int = _REPEATS) -> tuple[Figures, list[str]]:
    """Return figures and remarks. `data.path` and `plm.path` are fetched into `pipeline.downloads` if they
    aren't set; `plm.lora` (default: rank 8), ctr, prompt, masking and optimizer settings of `config` apply.
    """
    if config.plm.path is None:
        plm = fetch(_PLM, storage.join(config.pipeline.downloads, _PLM), say).path
        config = replaced(config, {"plm.path": plm})
    config, dataset = benchmark_inputs(config)
    sizes = {"global_batch_size": _ROWS, "micro_batch_size": _MICRO_BATCH}
    changes = {f"{stage}.{key}": value for stage in ("pretrain", "finetune") for key, value in sizes.items()}
    config = replaced(config, changes)
    rank = config.plm.lora.rank or _RANK
    arms = {"full": 0, "lora": rank}
    figures: Figures = {}
    notes = []
    for objective in _OBJECTIVES:
        with contextlib.ExitStack() as stack:
            running = {
                name: stack.enter_context(
                    arm(
                        f"{objective}, {name}",
                        1,
                        OptionSteps,
                        replaced(config, {"plm.lora.rank": of_arm}),
                        dataset,
                        objective,
                    )
                )
                for name, of_arm in arms.items()
            }
            losses = {name: one.call("loss") for name, one in running.items()}
            require_same(objective, {"ours": losses["lora"], "obvious": losses["full"]})
            for one in running.values():
                one.call("step")  # the first one is slower, and AdamW has its moments after it
            say(f"{objective}: timing {repeats} steps of each arm")
            seconds = interleaved_steps(running, repeats)
            memory = {name: one.call("peak_memory") / 2**30 for name, one in running.items()}
            trained = {name: one.call("trained") for name, one in running.items()}
        rows = config.stage(objective).global_batch_size
        for name in arms:
            rates = [rows / taken for taken in seconds[name]]
            figures[f"rows_a_second_{objective}_{name}"] = figure(rates, "rows/s")
            figures[f"peak_memory_{objective}_{name}"] = figure([memory[name]], "GiB")
            figures[f"trained_{objective}_{name}"] = figure([trained[name] / 1e6], "million parameters")
        pairs = zip(seconds["full"], seconds["lora"], strict=True)
        figures[f"speedup_{objective}"] = figure([whole / low for whole, low in pairs], "x")
        figures[f"memory_ratio_{objective}"] = figure([memory["full"] / memory["lora"]], "x")
    notes.append(f"rank {rank}; a peak contains the libraries of a process")
    return figures, notes
