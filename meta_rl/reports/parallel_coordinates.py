"""A picture of trials: a line for each, through its settings to what it achieved."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meta_rl.reports.names import as_it_stands

ENDS = (0.0, 1.0)

LETTER_INCHES = 0.09
"""Width of a letter of a name."""


@dataclass(frozen=True)
class Coordinate:
    """A vertical axis: a setting, or a score, with its value in each trial."""

    name: str
    values: Sequence[Any]
    texts: Sequence[str]
    """The values as text."""
    log: bool = False
    """Whether numbers lie by their logarithm."""
    higher_is_better: bool = True
    """Of a score."""

    def heights(self) -> list[float]:
        """Return where the values lie, in [0, 1]: numbers by size, others in order of coming."""
        if _are_numbers(self.values):
            placed = [log10(value) if self.log else float(value) for value in self.values]
        else:
            order = list(dict.fromkeys(self.texts))
            placed = [float(order.index(text)) for text in self.texts]
        low, high = min(placed), max(placed)
        return [(value - low) / (high - low) if high > low else 0.5 for value in placed]


def spans_magnitudes(values: Sequence[Any]) -> bool:
    """Return whether values are numbers above 0 that lie far apart."""
    return _are_numbers(values) and min(values) > 0 and max(values) >= 10 * min(values)


def parallel_coordinates(
    settings: Sequence[Coordinate], score: Coordinate, whole: Sequence[bool], title: str
) -> Figure:
    """Draw each trial as a line whose colour is its score; bright is better.

    Args:
        whole: Whether each trial was trained to its end; the others are grey and dashed.
    """
    coordinates = [*settings, score]
    apart = max(1.6, 0.3 + LETTER_INCHES * max(len(each.name) for each in coordinates))
    figure = Figure(figsize=(2.2 + apart * len(coordinates), 4.4), layout="constrained")
    axis = figure.subplots()
    heights = [coordinate.heights() for coordinate in coordinates]
    good = [height if score.higher_is_better else 1 - height for height in heights[-1]]
    colors = colormaps["viridis"]
    # The best is drawn last, above the others.
    for trial in sorted(range(len(whole)), key=lambda row: (whole[row], good[row])):
        line = [column[trial] for column in heights]
        look: dict[str, Any] = {"color": "0.75", "linestyle": "--", "linewidth": 1.0}
        if whole[trial]:
            look = {"color": colors(0.9 * good[trial]), "linewidth": 1.8}
        axis.plot(range(len(line)), line, **look)
    for place, (coordinate, column) in enumerate(zip(coordinates, heights, strict=True)):
        _mark(axis, place, coordinate, column)
    names = [as_it_stands(each.name) for each in coordinates]
    axis.set_xticks(range(len(names)), [text for text, _ in names], parse_math=False)
    axis.set_xlim(-0.3, len(names) - 0.4)
    axis.set_yticks([])
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
    shown, font = as_it_stands(title)
    figure.suptitle(shown, fontsize="medium", wrap=True, **font)
    return figure


def _mark(axis: Axes, place: int, coordinate: Coordinate, column: Sequence[float]) -> None:
    """Draw a vertical line with its values; of more than eight, the ends."""
    axis.plot([place, place], ENDS, color="0.3", linewidth=0.8)
    marks = dict(zip(column, coordinate.texts, strict=True))
    if len(marks) > 8:
        marks = {height: marks[height] for height in (min(marks), max(marks))}
    for height, text in marks.items():
        shown, font = as_it_stands(text)
        axis.annotate(
            shown,
            (place, height),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize="x-small",
            verticalalignment="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            **font,
        )


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
