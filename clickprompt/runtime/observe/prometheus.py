"""Export a run's numbers as Ray metrics, which every node serves to Prometheus as ray_clickprompt_….

The dashboard is in cluster/monitoring. Setting a metric takes 6 microseconds; Ray collects them every
10 seconds.
"""

from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

__all__ = ["RunMetrics"]

_STEP_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]


class RunMetrics:
    """The metrics of one worker, tagged by run, stage and worker.

    Only rank 0 sets those that are the same on all workers.
    """

    def __init__(self, run: str, stage: str, rank: int):
        tags = {"run": run, "stage": stage, "worker": str(rank)}
        keys = tuple(tags)

        def counter(name: str, what: str) -> Counter:
            return Counter(f"clickprompt_{name}", what, keys).set_default_tags(tags)  # pyright: ignore[reportReturnType]

        self._rank = rank
        self._seconds = Histogram(
            "clickprompt_step_seconds", "time of a step, with the wait for its rows", _STEP_SECONDS, keys
        )
        self._seconds.set_default_tags(tags)
        # An exact sum, while Ray's histogram knows only the middle of a bucket
        self._trained = counter("train_seconds", "time spent in steps")
        self._wait = counter("data_wait_seconds", "time in steps spent waiting for rows")
        self._blocked = counter("checkpoint_blocked_seconds", "time that training waited for checkpoints")
        if rank:
            return
        self._rows = counter("rows", "rows trained on by all workers")
        self._tokens = counter("tokens", "tokens read by the PLM in all workers")
        gauges = {
            "loss": "loss per target in the last step",
            "gradient_norm": "gradient norm of the last step, before clipping",
            "step": "steps done",
            "planned_steps": "step at which the run ends",
            "rows_per_second": "rows per second in the last step, all workers",
            "tokens_per_second": "tokens per second in the last step, all workers",
            "valid_auc": "AUC of the last validation that was used",
            "evaluation_lag_seconds": "time from handing over a validation's weights to its scores",
        }
        self._gauges = {name: Gauge(f"clickprompt_{name}", what, keys) for name, what in gauges.items()}
        for gauge in self._gauges.values():
            gauge.set_default_tags(tags)

    def on_step(self, metrics: dict[str, Any], planned_steps: int, lag: float | None) -> None:
        """Record a step's `metrics` (training/loop.py); `lag` is that of a validation among them."""
        seconds = metrics["seconds"]
        self._seconds.observe(seconds)
        _add(self._trained, seconds)
        _add(self._wait, metrics["wait_seconds"])
        if self._rank:
            return
        values = {name: metrics[name] for name in ("loss", "gradient_norm", "step")}
        values |= {
            "planned_steps": planned_steps,
            "rows_per_second": metrics["rows"] / seconds,
            "tokens_per_second": metrics["tokens"] / seconds,
        }
        for scores in metrics.get("validations", ()):
            values["valid_auc"] = scores["valid_auc"]
            if lag is not None:
                values["evaluation_lag_seconds"] = lag
        for name, value in values.items():
            self._gauges[name].set(value)
        _add(self._rows, metrics["rows"])
        _add(self._tokens, metrics["tokens"])

    def on_checkpoint(self, seconds: float) -> None:
        _add(self._blocked, seconds)


def _add(counter: Counter, amount: float) -> None:
    if amount > 0:  # Ray refuses 0
        counter.inc(amount)
