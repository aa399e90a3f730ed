"""A run's numbers as Ray's metrics, which every node serves to Prometheus (as ray_clickprompt_…;
cluster/monitoring has the dashboard).

Setting one takes 6 microseconds; Ray collects them every 10 seconds.
"""

from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

__all__ = ["RunMetrics"]

_STEP_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]


class RunMetrics:
    """Of one worker, tagged by run, stage and worker; what is the same on all of them is rank 0's to set."""

    def __init__(self, run: str, stage: str, rank: int):
        tags = {"run": run, "stage": stage, "worker": str(rank)}
        keys = tuple(tags)

        def counter(name: str, what: str) -> Counter:
            return Counter(f"clickprompt_{name}", what, keys).set_default_tags(tags)  # pyright: ignore[reportReturnType]

        self._rank = rank
        self._seconds = Histogram(
            "clickprompt_step_seconds", "of a step, the wait for its rows included", _STEP_SECONDS, keys
        )
        self._seconds.set_default_tags(tags)
        self._trained = counter(
            "train_seconds", "in steps"
        )  # exact, where Ray's histogram knows the middle of a bucket only
        self._wait = counter("data_wait_seconds", "of these, waited for rows")
        self._blocked = counter("checkpoint_blocked_seconds", "that training stood still for checkpoints")
        if rank:
            return
        self._rows = counter("rows", "trained on, by all workers")
        self._tokens = counter("tokens", "read by the PLM, in all workers")
        gauges = {
            "loss": "of the last step, a target",
            "gradient_norm": "of the last step, before clipping",
            "step": "steps done",
            "planned_steps": "at which the run ends",
            "rows_per_second": "of the last step, all workers",
            "tokens_per_second": "of the last step, all workers",
            "valid_auc": "of the last validation that was used",
            "evaluation_lag_seconds": "from when a validation's weights were given until it was scored",
        }
        self._gauges = {name: Gauge(f"clickprompt_{name}", what, keys) for name, what in gauges.items()}
        for gauge in self._gauges.values():
            gauge.set_default_tags(tags)

    def on_step(self, metrics: dict[str, Any], planned_steps: int, lag: float | None) -> None:
        """`metrics` as the loop's Context gets them; lag: of the validation whose result is among them."""
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
