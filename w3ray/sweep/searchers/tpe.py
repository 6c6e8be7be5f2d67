"""Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011; Watanabe, arXiv:2304.11127).

Each proposal builds a new study from the known results, with a seed that depends on the point's number. So no study has
to be stored, and a resumed sweep proposes the same points. With several objectives this is Optuna's multi-objective
TPE.
"""

import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any

from w3ray.data.schedule import stable_key
from w3ray.recipe import Recipe
from w3ray.sweep.searchers import Known
from w3ray.sweep.space import CASE, Parameter, Point, Space

_STARTUP_POINTS = 8
"""Points drawn at random before the estimator has enough results."""


class TPE:
    """See `Searcher`."""

    def __init__(self, space: Space, base: Recipe) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.ERROR)
        self._optuna, self._space, self._base = optuna, space, base
        # Categories are texts here: a recipe's value can be a section, which Optuna does not accept.
        self._categories: dict[str, dict[str, Any]] = {}
        self._distributions: dict[str, Any] = {}
        if space.cases:
            self._add_categories(CASE, tuple(space.cases))
        for name, parameter in space.parameters.items():
            self._add(name, parameter)

    @property
    def most(self) -> int | None:
        return None

    def propose(self, number: int, known: Sequence[Known]) -> Point:
        optuna = self._optuna
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=stable_key("tpe", self._space.search.seed, number) % (1 << 32),
                n_startup_trials=_STARTUP_POINTS,
                multivariate=True,
                group=True,  # conditional parameters
                constant_liar=True,  # points at work
            )
        study = optuna.create_study(
            directions=["minimize" if one.lower_is_better else "maximize" for one in self._space.objectives],
            sampler=sampler,
        )
        study.add_trials([trial for one in known if (trial := self._told(one)) is not None])
        trial = study.ask()
        return self._space.resolve(self._base, lambda name: self._suggest(trial, name))

    def _suggest(self, trial: Any, name: str) -> Any:
        distribution = self._distributions[name]
        if name in self._categories:
            return self._categories[name][trial.suggest_categorical(name, distribution.choices)]
        if isinstance(distribution, self._optuna.distributions.IntDistribution):
            return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
        value = trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
        return round(value, 12) if distribution.step else value

    def _told(self, known: Known) -> Any:
        """The point as an Optuna trial; None if it does not fit this space (a point of an earlier sweep)."""
        params = {}
        for name, value in known.point.items():
            if name not in self._distributions:
                return None
            if name in self._categories:
                value = next((text for text, one in self._categories[name].items() if one == value), None)
            params[name] = value
        distributions = {name: self._distributions[name] for name in params}
        if None in params.values():
            return None
        states = self._optuna.trial.TrialState
        if known.values is not None and not any(math.isnan(value) for value in known.values):
            state, values = states.COMPLETE, list(known.values)
        else:
            state, values = (states.RUNNING if known.at_work else states.FAIL), None
        create = self._optuna.trial.create_trial
        try:
            return create(state=state, params=params, distributions=distributions, values=values)
        except ValueError:  # a value outside its distribution
            return None

    def _add(self, name: str, parameter: Parameter) -> None:
        kinds = self._optuna.distributions
        if parameter.choice is not None or parameter.grid is not None:
            self._add_categories(name, parameter.values or ())
        elif parameter.integer is not None:
            least, most = parameter.integer
            self._distributions[name] = kinds.IntDistribution(least, most, step=int(parameter.step or 1))
        else:
            log = parameter.loguniform is not None
            self._distributions[name] = kinds.FloatDistribution(*parameter.bounds, log=log, step=parameter.step)

    def _add_categories(self, name: str, values: tuple[Any, ...]) -> None:
        self._categories[name] = {str(place): value for place, value in enumerate(values)}
        self._distributions[name] = self._optuna.distributions.CategoricalDistribution(tuple(self._categories[name]))
