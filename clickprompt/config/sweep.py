"""Settings of a sweep: its space, how it is searched, which trials go on."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from clickprompt.config.base import Frozen

__all__ = ["SearchRange", "TuneConfig"]


class SearchRange(Frozen):
    """A searched key's values from `low` to `high`, both among them."""

    low: float
    high: float
    log: bool = Field(
        default=False, description="drawn evenly on the logarithmic scale, as learning rates should be"
    )
    int: bool = Field(default=False, description="whole numbers only")

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
    """A sweep (`clickprompt tune`): which points of which space are tried, and how."""

    space: dict[str, SearchRange | list[Any]] = Field(
        default={},
        description="dotted key → [values], or {low, high, log, int} where search is random or tpe",
    )
    search: Literal["grid", "random", "tpe"] = Field(
        default="grid",
        description="every combination; num_samples drawn at random; drawn by Optuna's TPE from what is "
        "known by then",
    )
    num_samples: int = Field(default=16, ge=1, description="points, where search is random or tpe")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(),
        description="finetune every point once with each, and compare the means; the pretraining has "
        "`seed`. Default: `seed`",
    )
    pretrain: bool = Field(
        default=True,
        description="pretrain for each point; false: finetune from scratch. Not with finetune.init either",
    )
    scheduler: Literal["none", "asha"] = Field(
        default="none", description="asha: end what is worse than others were after as many validations"
    )
    grace_period: int = Field(default=1, ge=1, description="asha: validations before the first comparison")
    reduction_factor: float = Field(
        default=4,
        gt=1,
        description="asha: the best 1/so many go on, and are compared after so many times as many",
    )
    max_concurrent_trials: int = Field(default=1, ge=1, description="pretrainings and finetunings at a time")
    max_points: int = Field(default=64, ge=1, description="a larger space is refused without --yes")

    @field_validator("space", mode="before")
    @classmethod
    def _dotted(cls, space: Any) -> Any:
        if not isinstance(space, dict):
            return space
        keys = dict(_search_keys(space))
        for key, values in keys.items():
            if not isinstance(values, list | dict | SearchRange):
                raise ValueError(f"{key}={values!r} is no list; give the values to try, or {{low, high}}")
        return keys

    @model_validator(mode="after")
    def _values_and_ranges(self) -> "TuneConfig":
        for key, values in self.space.items():
            if not values:
                raise ValueError(f"space.{key} is empty; give at least one value")
            if isinstance(values, SearchRange) and self.search == "grid":
                raise ValueError(
                    f"space.{key} is a range, which has no grid; give a list of values, or search=random or "
                    "tpe"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: one comes twice; give each once")
        return self


def _search_keys(space: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys, whether the space was written with dots or as sections (as `--set
    tune.space.prompt.num_prompts=[1]` does).
    """
    for key, values in space.items():
        if isinstance(values, dict) and not values.keys() & SearchRange.model_fields.keys():
            yield from _search_keys(values, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values
