import re

from matplotlib import rc_context
from matplotlib.figure import Figure as Drawing

from meta_rl.reports.page import STYLE, Figure, inline_svg


def drawing(label):
    """A line, which has a clip path, and a legend with markers, which are used by reference."""
    with rc_context(STYLE):
        figure = Drawing(layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], marker="o")
        axes.set_title(label, parse_math=False)
    return figure


def test_what_a_drawing_refers_to_is_in_it_under_names_of_its_own():
    parts = [str(inline_svg(drawing("x"), name, "a line")) for name in ("one", "two")]
    found = []
    for name, svg in zip(("one", "two"), parts, strict=True):
        identifiers = re.findall(r' id="([^"]+)"', svg)
        referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
        assert referred == set(identifiers) and len(referred) >= 3
        assert all(identifier.startswith(f"{name}-") for identifier in identifiers)
        found += identifiers
    assert len(found) == len(set(found))


def test_a_figure_that_is_named_after_a_group_refers_to_what_is_in_it():
    """In `url(#...)` a space, a bracket or a quote would end the identifier."""
    svg = str(Figure("stream-it's a (lr=0.1)", "x", "x", drawing("x")).svg())
    referred = set(re.findall(r"""clip-path="url\(#([^\s()"']+)\)\"""", svg))
    assert referred and referred <= set(re.findall(r' id="([^"]+)"', svg))


def test_a_drawing_takes_colour_and_font_from_the_page():
    svg = str(inline_svg(drawing("x"), "one", "a line"))
    assert "currentColor" in svg and "#010203" not in svg
    assert "DejaVu" not in svg and 'aria-label="a line"' in svg


def test_a_name_that_looks_like_markup_stays_a_text():
    for name in (' id="one-x"', "url(#clip)", "#010203", 'href="#y"', "font-family: z; ", "</svg>"):
        svg = str(inline_svg(drawing(name), "one", name))
        text = name.strip().replace("<", "&lt;").replace(">", "&gt;")
        assert f"{text}</text>" in svg or f"{text} </text>" in svg, svg[-3000:]
