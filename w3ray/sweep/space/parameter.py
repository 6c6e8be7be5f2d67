"""Which values may one searched field have?"""

import math
from typing import Any, Self

from pydantic import Field, model_validator

from w3ray.recipe import Section

_KINDS = ("choice", "grid", "uniform", "loguniform", "integer")


class Parameter(Section):
    """One dimension: exactly one of `choice`, `grid`, `uniform`, `loguniform`, `integer`."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1, description="one of these values")
    grid: tuple[Any, ...] | None = Field(
        default=None, min_length=1, description="each of these values, even if other parameters are drawn at random"
    )
    uniform: tuple[float, float] | None = Field(default=None, description="a number from [least, most]")
    loguniform: tuple[float, float] | None = Field(
        default=None, description="a number from [least, most], uniform in its logarithm"
    )
    integer: tuple[int, int] | None = Field(
        default=None, description="a whole number from [least, most], both included"
    )
    step: float | None = Field(default=None, gt=0, description="only least + multiples of this (quantised)")
    when: dict[str, Any] = Field(
        default={}, description="use the parameter only if each of these fields has this value, or one of these values"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(_KINDS)}; got {', '.join(given) or 'none'}")
        if self.choice is None and self.grid is None:
            least, most = self.bounds
            if not least < most:
                raise ValueError(f"{self.kind} [{least:g}, {most:g}]: the first number must be less than the second")
            if self.loguniform is not None and least <= 0:
                raise ValueError(f"loguniform [{least:g}, {most:g}]: must be above 0")
            if self.step is not None and self.loguniform is not None:
                raise ValueError("step is for uniform and integer")
            if self.step is not None and self.step > most - least:
                raise ValueError(f"step {self.step:g} is larger than the range {most - least:g}")
            if self.integer is not None and self.step is not None and self.step != int(self.step):
                raise ValueError(f"step {self.step:g} of integer must be a whole number")
        elif self.step is not None:
            raise ValueError("step is for uniform and integer")
        return self

    @property
    def kind(self) -> str:
        return next(name for name in _KINDS if getattr(self, name) is not None)

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest value of a numeric parameter."""
        found = self.uniform or self.loguniform or self.integer
        assert found is not None
        return found

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All values in order, if they are finite in number; None for a continuous range."""
        if (listed := self.choice or self.grid) is not None:
            return listed
        least, most = self.bounds
        step = self.step or (1 if self.integer is not None else None)
        if step is None:
            return None
        count = math.floor((most - least) / step + 1e-9) + 1
        return tuple(self._number(least + i * step) for i in range(count))

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the parameter's range; turns a random number into a draw."""
        if (values := self.values) is not None:
            return values[int(share * len(values))]
        least, most = self.bounds
        if self.loguniform is not None:
            return math.exp(math.log(least) + share * (math.log(most) - math.log(least)))
        return least + share * (most - least)

    def extremes(self) -> tuple[Any, ...]:
        """Values to check: if these can be used, all values can."""
        return self.bounds if self.values is None else self.values

    def _number(self, value: float) -> Any:
        return round(value) if self.integer is not None else round(value, 12)
