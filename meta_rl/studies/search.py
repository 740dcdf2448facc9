"""Which settings a sweep tries: all of a grid, some at random, or what Optuna's TPE proposes."""

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from meta_rl.core.errors import UserError
from meta_rl.studies.settings import Choice, Range, Setting, Varied

SearchName: TypeAlias = Literal["grid", "random", "tpe"]


@dataclass(frozen=True)
class Tried:
    """A setting, and what came of it."""

    setting: Setting
    value: float | None = None
    """Score on the validation split, larger being better; none if it failed, or is not known."""
    runs: bool = False
    """Whether it is not known yet."""


@runtime_checkable
class Search(Protocol):
    """Proposes the settings of trials, the same ones whenever it is asked."""

    count: int
    """How many trials there are."""
    learns: bool
    """Whether proposals depend on what earlier trials achieved."""

    def propose(self, number: int, earlier: Sequence[Tried]) -> Setting:
        """Return the setting of a trial.

        Args:
            earlier: All trials before it, if it learns from them.
        """
        ...


def make_search(
    name: SearchName, varied: Sequence[Varied], trials: int | None, seed: int
) -> Search:
    """Return the search of a name.

    Raises:
        UserError: It does not fit to what is varied, or needs a package that is missing.
    """
    if name == "grid":
        if trials is not None:
            raise UserError("--trials is for --search random and tpe; a grid tries all values")
        return Grid(varied)
    if trials is None or trials < 1:
        raise UserError(f"--search {name} needs --trials N, at least 1")
    return RandomSearch(varied, trials, seed) if name == "random" else Tpe(varied, trials, seed)


class Grid:
    """Every combination of the values."""

    learns = False

    def __init__(self, varied: Sequence[Varied]) -> None:
        for each in varied:
            if isinstance(each, Range):
                raise UserError(
                    f"--vary {each.name}: a grid needs values, not a range; give some between "
                    f"commas, or --search random --trials N"
                )
        values = [each.values for each in varied if isinstance(each, Choice)]
        names = [each.name for each in varied]
        self._all = [dict(zip(names, row, strict=True)) for row in itertools.product(*values)]
        self.count = len(self._all)

    def propose(self, number: int, earlier: Sequence[Tried]) -> Setting:
        """Return the next combination; the last setting varies fastest."""
        return self._all[number]


class RandomSearch:
    """Values drawn independently of each other (Bergstra and Bengio 2012)."""

    learns = False

    def __init__(self, varied: Sequence[Varied], trials: int, seed: int) -> None:
        self._varied, self._seed, self.count = varied, seed, trials

    def propose(self, number: int, earlier: Sequence[Tried]) -> Setting:
        """Draw a setting that depends on the seed and the trial's number."""
        generator = np.random.default_rng([self._seed, number])
        return {each.name: _draw(each, generator) for each in self._varied}


def _draw(varied: Varied, generator: np.random.Generator) -> Any:
    if isinstance(varied, Choice):
        return varied.values[int(generator.integers(len(varied.values)))]
    low, high = (varied.low - 0.5, varied.high + 0.5) if varied.whole else (varied.low, varied.high)
    if varied.log:
        drawn = math.exp(generator.uniform(math.log(low), math.log(high)))
    else:
        drawn = generator.uniform(low, high)
    drawn = min(max(drawn, varied.low), varied.high)
    return round(drawn) if varied.whole else drawn


class Tpe:
    """The tree-structured Parzen estimator (Bergstra et al. 2011) of the package `optuna`.

    A proposal depends on the seed, the trial's number and the trials before it alone, so that a
    sweep that goes on proposes what it would have.
    """

    learns = True

    def __init__(self, varied: Sequence[Varied], trials: int, seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "--search tpe needs the package optuna: pip install -e '.[sweep]'"
            ) from error
        self._varied, self._seed, self.count = varied, seed, trials
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space: dict[str, Any] = {
            each.name: _distribution(each, optuna.distributions) for each in varied
        }

    def propose(self, number: int, earlier: Sequence[Tried]) -> Setting:
        """Tell a new study all earlier trials, and ask it for one more."""
        import optuna

        with warnings.catch_warnings():
            # Trials that run count as bad ones, so that the next is another.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]),
                constant_liar=True,
            )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        states = optuna.trial.TrialState
        for tried in earlier:
            known = states.FAIL if tried.value is None else states.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(
                    state=states.RUNNING if tried.runs else known,
                    params=self._inside(tried.setting),
                    distributions=self._space,
                    value=tried.value,
                )
            )
        asked = study.ask(self._space)
        return {each.name: _outside(each, asked.params[each.name]) for each in self._varied}

    def _inside(self, setting: Setting) -> dict[str, Any]:
        """Return a setting as Optuna holds it: places in lists, which may hold anything."""
        return {
            each.name: each.values.index(setting[each.name])
            if isinstance(each, Choice)
            else setting[each.name]
            for each in self._varied
        }


def _outside(varied: Varied, value: Any) -> Any:
    return varied.values[value] if isinstance(varied, Choice) else value


def _distribution(varied: Varied, kinds: Any) -> Any:
    if isinstance(varied, Choice):
        return kinds.CategoricalDistribution(range(len(varied.values)))
    if varied.whole:
        return kinds.IntDistribution(varied.low, varied.high, log=varied.log)
    return kinds.FloatDistribution(varied.low, varied.high, log=varied.log)
