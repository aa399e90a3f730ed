"""Draw a sweep's points by Optuna's TPE through Ray Tune, based on the results of earlier points."""

import importlib.util
from typing import Any

import numpy as np
from ray import tune

from clickprompt.config import Config, SearchRange
from clickprompt.errors import ConfigError

__all__ = ["TPE", "check_optuna"]


def check_optuna() -> None:
    """Raise ConfigError if Optuna isn't installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "tune.search=tpe needs Optuna, which isn't installed: pip install -c constraints.txt -e "
            "'.[tune]', or use tune.search=random"
        )


class TPE:
    """The search; points are identified by the caller's numbers, and their figure is maximised."""

    def __init__(self, config: Config, known: list[tuple[dict[str, Any], float | None, bool]]):
        """`known`: (parameters, figure, whether it is over) of each point drawn by an earlier part of the
        sweep.
        """
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = config.tune.space
        self._search = OptunaSearch(
            {key: _domain(values) for key, values in self._space.items()},
            metric="figure",
            mode="max",
            # Each part of the sweep has another seed: a part's first points are random, and would otherwise
            # repeat
            seed=int(np.random.SeedSequence([config.seed, len(known)]).generate_state(1)[0]),
            points_to_evaluate=[parameters for parameters, _, over in known if not over],
        )
        for number, (parameters, figure, over) in enumerate(known):
            if over:
                self._search.add_evaluated_point(parameters, figure, error=figure is None)  # pyright: ignore[reportArgumentType]
            else:
                self._search.suggest(str(number))

    def draw(self, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw a point: (parameters, the keys' values)."""
        parameters = self._search.suggest(str(number))
        assert parameters is not None
        return parameters, {key: _value(values, parameters[key]) for key, values in self._space.items()}

    def tell(self, number: int, figure: float | None) -> None:
        """Report a point's figure; None if it has none."""
        self._search.on_trial_complete(
            str(number), {"figure": figure} if figure is not None else None, error=figure is None
        )


def _domain(values: SearchRange | list[Any]) -> Any:
    """Return the values as a Ray Tune domain; a list becomes its positions, as values may be of any type."""
    if isinstance(values, list):
        return tune.choice(list(range(len(values))))
    if values.int:
        return (tune.lograndint if values.log else tune.randint)(int(values.low), int(values.high) + 1)
    return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)


def _value(values: SearchRange | list[Any], drawn: Any) -> Any:
    return values[drawn] if isinstance(values, list) else drawn
