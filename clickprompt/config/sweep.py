"""Settings of a sweep: the space, the search, and the rule that ends trials early."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from clickprompt.config.base import Frozen

__all__ = ["SearchRange", "TuneConfig"]


class SearchRange(Frozen):
    """Values of a searched key from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = Field(
        default=False, description="draw evenly on the logarithmic scale, as suits learning rates"
    )
    int: bool = Field(default=False, description="draw whole numbers only")

    @model_validator(mode="after")
    def _from_low_to_high(self) -> "SearchRange":
        if self.low >= self.high:
            raise ValueError(
                f"low={self.low:g} is not below high={self.high:g}; give a range, or a list of values"
            )
        if self.log and self.low <= 0:
            raise ValueError(
                f"low={self.low:g}: a logarithmic range starts above 0; raise low or leave log out"
            )
        if self.int and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(
                f"low={self.low:g}, high={self.high:g}: a range of whole numbers ends in whole numbers"
            )
        return self


class TuneConfig(Frozen):
    """A sweep (`clickprompt tune`): the points to try, and how."""

    space: dict[str, SearchRange | list[Any]] = Field(
        default={},
        description="dotted key → [values], or {low, high, log, int} if search is random or tpe",
    )
    search: Literal["grid", "random", "tpe"] = Field(
        default="grid",
        description="grid: every combination; random: num_samples drawn at random; tpe: drawn by "
        "Optuna's TPE from the results so far",
    )
    num_samples: int = Field(default=16, ge=1, description="number of points, if search is random or tpe")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(),
        description="seeds with which every point is finetuned, to compare the means; pretraining uses "
        "`seed`; default: `seed`",
    )
    pretrain: bool = Field(
        default=True,
        description="pretrain for each point; false: finetune from scratch, or from finetune.init if "
        "it is set",
    )
    scheduler: Literal["none", "asha"] = Field(
        default="none",
        description="asha: end a trial that is worse than others were after as many validations",
    )
    grace_period: int = Field(
        default=1, ge=1, description="asha: number of validations before the first comparison"
    )
    reduction_factor: float = Field(
        default=4,
        gt=1,
        description="asha: the best 1/reduction_factor go on, and are compared again after "
        "reduction_factor times as many validations",
    )
    max_concurrent_trials: int = Field(
        default=1, ge=1, description="number of pretrainings and finetunings that run at a time"
    )
    max_points: int = Field(
        default=64, ge=1, description="most points of a space; a larger one is refused without --yes"
    )

    @field_validator("space", mode="before")
    @classmethod
    def _dotted(cls, space: Any) -> Any:
        if not isinstance(space, dict):
            return space
        keys = dict(_search_keys(space))
        for key, values in keys.items():
            if not isinstance(values, list | dict | SearchRange):
                raise ValueError(f"{key}={values!r} is not a list; give the values to try, or {{low, high}}")
        return keys

    @model_validator(mode="after")
    def _values_and_ranges(self) -> "TuneConfig":
        for key, values in self.space.items():
            if not values:
                raise ValueError(f"space.{key} is empty; give at least one value")
            if isinstance(values, SearchRange) and self.search == "grid":
                raise ValueError(
                    f"space.{key} is a range, which has no grid; give a list of values, or "
                    "search=random or tpe"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: one comes twice; give each once")
        return self


def _search_keys(space: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys, whether the space was written with dots or as sections (as by `--set
    tune.space.prompt.num_prompts=[1]`).
    """
    for key, values in space.items():
        if isinstance(values, dict) and not values.keys() & SearchRange.model_fields.keys():
            yield from _search_keys(values, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values
