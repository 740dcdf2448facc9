"""One HTML file without server, script or network: tables, figures, videos, text."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure as Drawing
from PIL import Image

from meta_rl.core.types import Picture
from meta_rl.reports.tables import TextTable

INK = "#010203"
"""Stands in figures for the colour of the page's text, which a dark page has light."""

STYLE: dict[Any, Any] = {
    "legend.frameon": False,  # a frame would be filled, with the paper's colour of one of the two
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
}
"""What drawings for a page are made under, with `matplotlib.rc_context(STYLE)`."""


@dataclass(frozen=True)
class Figure:
    """A drawing, what it shows for those who see it, and for those who cannot."""

    name: str
    caption: str
    alt: str
    drawing: Drawing

    @property
    def wide(self) -> bool:
        """Whether it wants the page's whole width."""
        return bool(self.drawing.get_figwidth() > 7)

    def svg(self) -> Markup:
        """Return an SVG element that takes its text's colour and font from the page."""
        # Names may hold labels; in url(#...) a space or a bracket would end the identifier.
        return inline_svg(self.drawing, anchor(self.name), self.alt)


@dataclass(frozen=True)
class Video:
    """A film in mp4, and the picture of it that stands there until it plays, and in print."""

    name: str
    caption: str
    path: Path
    poster: Picture

    def source(self) -> str:
        """Return the film as a URL."""
        return data_url("video/mp4", self.path.read_bytes())

    def poster_source(self) -> str:
        """Return the picture as a URL."""
        written = io.BytesIO()
        Image.fromarray(self.poster).save(written, format="jpeg", quality=85)
        return data_url("image/jpeg", written.getvalue())


@dataclass(frozen=True)
class Folded:
    """What few readers need: shown when its summary is opened, and in print."""

    summary: str
    text: str = ""
    tables: Sequence[TextTable] = ()
    open: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a report under its own heading."""

    title: str
    text: str = ""
    remarks: Sequence[str] = ()
    tables: Sequence[TextTable] = ()
    figures: Sequence[Figure] = ()
    videos: Sequence[Video] = ()
    folded: Sequence[Folded] = ()

    @property
    def anchor(self) -> str:
        """Name for links within the page."""
        return anchor(self.title)


def data_url(kind: str, content: bytes) -> str:
    """Return content as a URL that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def anchor(title: str) -> str:
    """Return a title as one word of small letters."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """All that the page shows, in its order."""

    title: str
    summary: str
    sections: Sequence[Section]
    made_by: str

    def html(self) -> str:
        """Return the page."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("page.html.j2").render(page=self)


SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def inline_svg(drawing: Drawing, name: str, alt: str) -> Markup:
    """Return a matplotlib figure as an SVG element for the body of a page.

    Args:
        name: Prefix of the element's identifiers, which a page may have only once.
    """
    written = io.StringIO()
    with rc_context(STYLE | {"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawing.savefig(written, format="svg", transparent=True, metadata=nothing)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(written.getvalue())
    del root.attrib["height"]
    width = float(root.attrib.pop("width").removesuffix("pt"))
    # The page's columns decide, within what keeps text readable; a box around scrolls the rest.
    style = f"min-width: {0.75 * width:.0f}px; max-width: {1.4 * width:.0f}px"
    used = {
        found
        for element in root.iter()
        for key, value in element.attrib.items()
        if key != "id"
        for found in re.findall(r"(?:^|url\()#([^)]+)", value)
    }
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        # Attributes alone: texts hold names, which may look like any of these.
        for key, value in element.attrib.items():
            element.set(key, _for_page(key, value, name))
    root.attrib |= {"role": "img", "aria-label": alt, "style": style}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _for_page(key: str, value: str, name: str) -> str:
    """Return an attribute of a drawing as an element of a page has it."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return re.sub("^#", f"#{name}-", value)
    value = value.replace("url(#", f"url(#{name}-")
    # matplotlib names its own font in every text; without it the page's is taken.
    value = re.sub(r"font-family: [^;]+; ", "", value)
    return value.replace(INK, "currentColor")
