"""Names in pictures, as they stand: without mathematics, and in a font that has their letters."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from matplotlib import font_manager, rcParams
from matplotlib.axis import Axis
from matplotlib.ft2font import FT2Font

LOGGED = {
    f"{quantity}/{when}": f"{quantity} {when} adaptation"
    for quantity in ("success", "return")
    for when in ("before", "after")
}
"""What the metrics of `metrics.jsonl` are called where people read of them, if by other words."""


def as_it_stands(name: str) -> tuple[str, dict[str, Any]]:
    """Return a name as matplotlib can draw it, and the properties of its text.

    Dollar signs begin no mathematics. Letters that no font of this machine has are escaped.
    """
    usual = font_manager.findfont(font_manager.FontProperties())
    missing = frozenset(letter for letter in name if ord(letter) not in _letters(usual))
    if not missing:
        return name, {"parse_math": False}
    families, lost = _families_for(missing)
    shown = "".join(
        letter.encode("unicode_escape").decode() if letter in lost else letter for letter in name
    )
    return shown, {"parse_math": False, "fontfamily": [*rcParams["font.family"], *families]}


def label_ticks(axis: Axis, names: Sequence[str], rotation: int = 0) -> None:
    """Write a name at each whole number along an axis, in small letters."""
    shown = [as_it_stands(name) for name in names]
    axis.set_ticks(range(len(names)), [text for text, _ in shown], parse_math=False)
    for label, (_, font) in zip(axis.get_ticklabels(), shown, strict=True):
        label.set(rotation=rotation, fontsize="small", **font)


@lru_cache(maxsize=64)
def _letters(font: str) -> frozenset[int]:
    """Return the code points that a font file has."""
    return frozenset(FT2Font(font).get_charmap())


@lru_cache(maxsize=64)
def _families_for(letters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Return fonts of this machine that have the letters, and the letters that none has."""
    families, lost = [], letters
    for entry in font_manager.fontManager.ttflist:
        if not lost:
            break
        if "color" in entry.name.lower() or "last resort" in entry.name.lower():
            continue  # pictures of letters, which matplotlib cannot draw, and boxes
        has = frozenset(letter for letter in lost if ord(letter) in _letters(entry.fname))
        if has:
            families.append(entry.name)
            lost -= has
    return families, lost
