"""What the tasks of a Gymnasium environment differ by, and which split has which part of it.

A variation draws one number a task. A range is cut into twenty equal parts: test tasks draw from
three of them, validation tasks from three others, training tasks from the rest, so that no split
ever sees a value of another. With `extrapolate` the test parts are the two at each end. Of listed
values every split has about the same share. Nothing here may import torch.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any, Literal, TypeAlias, get_args

from meta_rl.core.errors import UserError, what_there_is

Target: TypeAlias = Literal["attribute", "keyword", "model", "seed"]
Kind: TypeAlias = Literal["uniform", "log_uniform", "integers", "values", "scale", "log_scale"]
SplitName: TypeAlias = Literal["train", "validation", "test"]
Interval: TypeAlias = tuple[float | int, float | int]

TARGETS, KINDS = get_args(Target), get_args(Kind)
HELD_OUT = ("validation", "test")
DISCRETE = ("integers", "values")
LOGARITHMIC = ("log_uniform", "log_scale")
PARTS = 20
"""Pieces that a range is cut into."""
MOST_LISTED = 1000
"""Values that are told apart one by one; more are cut into parts as a range is."""
HELD_OUT_SHARE = 0.15
"""What each held-out split has of the places: whole ones, at least one."""
ENDS_SHARE = 0.2
"""What the test split has of them with `extrapolate`, half at each end."""


@dataclass(frozen=True)
class Variation:
    """One number that tasks differ by, and what it changes.

    `spread` is the range [low, high] of the numbers, or the listed values, whose positions are the
    numbers then. `own` has the spreads that the config gives to held-out splits themselves.
    """

    where: str
    """What errors call it."""
    target: Target
    names: tuple[str, ...]
    """Attributes, keywords or fields of the model that all get the value."""
    parts: tuple[str, ...]
    """Bodies, joints, ... of the model; all, if there are none."""
    kind: Kind
    spread: tuple[Any, ...]
    own: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    shared: bool = False
    """Whether all splits draw from all of it, since other variations keep them apart."""
    extrapolate: bool = False

    @property
    def discrete(self) -> bool:
        """Whether it has a finite number of values."""
        return self.kind in DISCRETE

    @property
    def multiplies(self) -> bool:
        """Whether the number is a factor of what the environment has."""
        return self.kind in ("scale", "log_scale")

    def count(self, split: SplitName) -> float | int:
        """Return how many values a split has."""
        return sum(high - low for low, high in self._pieces(split)) if self.discrete else math.inf

    def draw(self, split: SplitName, share: float) -> float:
        """Return the number at a share in [0, 1) of what a split has."""
        place = share * sum(high - low for low, high in self._pieces(split))
        for low, high in self._pieces(split):
            if place < high - low:
                break
            place -= high - low
        # Short of the piece's end, where another split's may begin.
        at = low + min(place, (1 - 1e-9) * (high - low))
        if self.discrete:
            return self.number(split, math.floor(at))
        start, end = self._own(split)
        if self.kind in LOGARITHMIC:
            return float(start * (end / start) ** at)
        return float(start + (end - start) * at)

    def number(self, split: SplitName, position: int) -> float:
        """Return what the value at a position of a discrete variation is told by."""
        if self.kind == "integers":
            return float(self._own(split)[0] + position)
        before = 0
        if split in self.own:  # listed after the spread's, in the order of the splits
            before = len(self.spread)
            for other in HELD_OUT[: HELD_OUT.index(split)]:
                before += len(self.own.get(other, ()))
        return float(before + position)

    def value(self, number: float) -> Any:
        """Return what a number means.

        Raises:
            UserError: Values are listed or whole, and it is none of them.
        """
        if self.discrete and number != math.floor(number):
            raise UserError(
                f"{self.where} has whole numbers for its values, but a task has the number "
                f"{number:g}"
            )
        if self.kind == "integers":
            return int(number)
        if self.kind == "values":
            listed = [*self.spread]
            for split in HELD_OUT:
                listed += self.own.get(split, ())
            if not 0 <= number < len(listed):
                raise UserError(
                    f"{self.where} has {len(listed)} values, counted from 0, but a task has the "
                    f"number {number:g}"
                )
            return deepcopy(listed[int(number)])  # an environment may change what it is given
        return number

    def _own(self, split: SplitName) -> tuple[Any, ...]:
        return self.own.get(split, self.spread)

    def _size(self, split: SplitName) -> int:
        """Return how many values a discrete spread has."""
        spread = self._own(split)
        return int(spread[1]) - int(spread[0]) + 1 if self.kind == "integers" else len(spread)

    def _pieces(self, split: SplitName) -> list[Interval]:
        """Return where in its spread a split draws: shares of a range, positions of values."""
        size = self._size(split) if self.discrete else 1
        if self.shared or split in self.own:
            return [(0, size)]
        held_out = [name for name in HELD_OUT if name not in self.own]
        places = PARTS if not self.discrete or size > MOST_LISTED else size
        apart = _apart(places, self.extrapolate)
        taken = {place for name in held_out for place in apart[name]}
        mine = apart[split] if split in held_out else sorted(set(range(places)) - taken)
        mine = [place for place in mine if place < places]  # of two values none is validation's
        edges = [place * size / places for place in range(places + 1)]
        if self.discrete:
            edges = [round(edge) for edge in edges]
        return [(edges[place], edges[place + 1]) for place in mine]


def _apart(places: int, extrapolate: bool) -> dict[str, list[int]]:
    """Return which of so many places in order the held-out splits have, at least one each."""
    share = max(1, round(HELD_OUT_SHARE * places))
    if not extrapolate:
        test = [int((number + 0.5) * places / share) for number in range(share)]
        return {"test": test, "validation": [place + 1 for place in test]}
    at_ends = max(1, round(ENDS_SHARE * places))
    first, last = at_ends // 2, places - (at_ends - at_ends // 2)
    inside = [first + int((number + 0.5) * (last - first) / share) for number in range(share)]
    return {"test": [*range(first), *range(last, places)], "validation": inside}


def read(entries: Any, extrapolate: bool) -> tuple[Variation, ...]:
    """Return the variations of `envs.vary`.

    Raises:
        UserError: An entry names no target or no values, a range is empty, or splits overlap.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise UserError(
            f"envs.vary must be a list such as [{{attribute: gravity, uniform: [5, 15]}}], got "
            f"{entries!r}"
        )
    variations = tuple(
        _variation(entry, f"envs.vary[{number}]", extrapolate)
        for number, entry in enumerate(entries)
    )
    if not variations:
        raise UserError(
            "envs.vary is empty, so all tasks are the same; say what they differ by, such as "
            "vary: [{attribute: gravity, uniform: [5, 15]}]"
        )
    _check_apart(variations)
    if all(each.shared for each in variations):
        raise UserError(
            "all entries of envs.vary are shared, so splits overlap: training has the test tasks; "
            "leave `shared` out of one of them"
        )
    return variations


def _check_apart(variations: Sequence[Variation]) -> None:
    """Raise a UserError if two entries change the same, for the later one alone would count."""
    for one, other in combinations(variations, 2):
        if one.target != other.target:
            continue
        for name, another in product(one.names or ("",), other.names or ("",)):
            path, _, item = name.partition("[")
            other_path, _, other_item = another.partition("[")
            of_one = path == other_path and (item == other_item or "" in (item, other_item))
            if of_one and (not (one.parts and other.parts) or {*one.parts} & {*other.parts}):
                raise UserError(
                    f"{one.where} and {other.where} change the same {one.target} {another}".rstrip()
                    + "; make them one entry"
                )


def _variation(entry: Any, where: str, extrapolate: bool) -> Variation:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} must hold `key: value` lines, got {entry!r}")
    known = [*TARGETS, *KINDS, "of", "shared", *HELD_OUT]
    for key in entry:
        if key not in known:
            raise UserError(f"unknown key {key!r} in {where}; {what_there_is(str(key), known)}")
    target = _one_of(entry, TARGETS, where, "what it changes")
    kind: Kind
    names: tuple[str, ...] = ()
    if target == "seed":  # the numbers themselves are its value
        _refuse(entry, (*KINDS, "of"), where, "seed: [FIRST, LAST] has its range already")
        kind, spread = "integers", entry["seed"]
    else:
        kind = _one_of(entry, KINDS, where, "the values")
        names, spread = _words(entry[target], f"{where}.{target}"), entry[kind]
        if not names:
            raise UserError(f"{where}.{target} names nothing to change")
    if target != "model":
        _refuse(entry, ("of",), where, "only parts of a model have names")
    if not isinstance(shared := entry.get("shared", False), bool):
        raise UserError(f"{where}.shared must be true or false, got {shared!r}")
    if kind in ("scale", "log_scale") and target == "keyword":
        raise UserError(
            f"{where} scales a keyword, but its default is not known; give it a uniform range"
        )
    key = "seed" if target == "seed" else kind
    own = {
        split: _spread(entry[split], kind, f"{where}.{split}")
        for split in HELD_OUT
        if split in entry
    }
    variation = Variation(
        where,
        target,
        names,
        _words(entry.get("of", []), f"{where}.of"),
        kind,
        _spread(spread, kind, f"{where}.{key}"),
        own,
        shared,
        extrapolate,
    )
    if target == "seed":
        for name, (first, _) in {"seed": variation.spread, **own}.items():
            if first < 0:
                raise UserError(f"{where}.{name} must begin at 0 or above, got {first}")
    _check_splits(variation)
    return variation


def _one_of(entry: Mapping[str, Any], keys: Sequence[Any], where: str, what: str) -> Any:
    given = [key for key in keys if key in entry]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(f"{where} must say {what} by one of {', '.join(keys)}; it has {found}")
    return given[0]


def _refuse(entry: Mapping[str, Any], keys: Sequence[str], where: str, why: str) -> None:
    if given := [key for key in keys if key in entry]:
        raise UserError(f"{where} must not have {given[0]}: {why}")


def _words(given: Any, where: str) -> tuple[str, ...]:
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, Sequence) or not all(isinstance(each, str) for each in words):
        raise UserError(f"{where} must be a name or a list of names, got {given!r}")
    return tuple(words)


def _spread(given: Any, kind: Kind, where: str) -> tuple[Any, ...]:
    """Return a range or listed values, checked."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UserError(f"{where} must be a list, got {given!r}")
    if kind == "values":
        if not given:
            raise UserError(f"{where} is empty; list at least one value")
        for place, value in enumerate(given):
            if value in given[:place]:
                raise UserError(
                    f"{where} lists {value!r} twice, so splits would share it; list it once"
                )
        return tuple(given)
    number = int if kind == "integers" else float
    good = len(given) == 2 and all(
        isinstance(end, int | number) and not isinstance(end, bool) and math.isfinite(end)
        for end in given
    )
    if not good:
        kinds = "whole numbers" if kind == "integers" else "numbers"
        raise UserError(f"{where} must be two {kinds}, [low, high], got {given!r}")
    low, high = (number(end) for end in given)
    if low > high or (low == high and kind != "integers"):
        raise UserError(f"{where} is an empty range: {given[0]} is not below {given[1]}")
    if kind in LOGARITHMIC and low <= 0:
        raise UserError(f"{where} must be above 0 to be drawn by its logarithm, got {low}")
    return low, high


def _check_splits(variation: Variation) -> None:
    """Raise a UserError where splits overlap, or one of them has nothing."""
    where, own = variation.where, variation.own
    if variation.shared and own:
        raise UserError(
            f"{where} is shared by all splits, so {min(own)} cannot have its own values"
        )
    spreads = [("the others", variation.spread), *own.items()]
    for number, (name, spread) in enumerate(spreads):
        for other, another in spreads[number + 1 :]:
            if variation.kind == "values":
                overlap = any(value in spread for value in another)
            else:
                reach = 1 if variation.kind == "integers" else 0
                overlap = another[0] < spread[1] + reach and spread[0] < another[1] + reach
            if overlap:
                raise UserError(
                    f"splits of {where} overlap: {other} has {list(another)}, but {name} "
                    f"{'has' if name in own else 'have'} {list(spread)}; give them separate values"
                )
    for split in get_args(SplitName):
        if variation.count(split) == 0:
            raise UserError(
                f"{where} has too few values for three splits: none is left for {split}; list at "
                f"least 3, or give {' and '.join(HELD_OUT)} values of their own, or say `shared: "
                f"true` if other entries keep the splits apart"
            )
