"""SVG pictures for a page, light or dark, narrow or wide, in the page's own colour of text."""

import io
import re
import threading
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ce_torch.chapter.motion import animate_lines

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
INK = "#010203"  # a placeholder for the page's own colour of text
STYLE: dict[Any, Any] = {  # the keys are literals to matplotlib, which a type checker cannot follow through fromkeys
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.facecolor": "none",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "axes.titlesize": "medium",
    "font.size": 10,
    "path.simplify": False,  # a moving line needs all of its points
    "svg.fonttype": "none",
    "svg.hashsalt": "ce_torch",
}
SIZE = 3.0, 2.5  # inches: a third of a page
AXES = 0.19, 0.19, 0.78, 0.7  # left, bottom, width, height, as fractions of the size; a layout engine would take time
# Matplotlib's settings belong to the process, and a server draws for several readers at once.
drawing = threading.Lock()


def picture(
    draw: Callable[[Axes], object],
    description: str,
    *,
    title: str = "",
    moving: bool = False,
) -> str:
    """Return a drawing as an SVG element for a page.

    Args:
        draw: draws on the axes. A line whose gid begins with "moving" can be set in motion.
        description: describes the picture to readers who cannot see it.
        title: stands above the axes.
        moving: animate those lines, from their first point to their last.
    """
    with drawing, matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.add_axes(AXES)
        axes.locator_params(nbins=4)
        draw(axes)
        axes.set_title(title)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return to_page_element(written.getvalue(), description, moving)


def to_page_element(svg: str, description: str, moving: bool) -> str:
    root = ElementTree.fromstring(svg)
    if moving:
        animate_lines(root)
    tidy(root)
    root.attrib |= {"role": "img", "aria-label": description, "style": "stroke-linejoin: round"}
    written = ElementTree.tostring(root, encoding="unicode").replace(INK, "currentColor")
    return re.sub(r"font-family: [^;]*; ", "", written)  # the page has its own font


def tidy(root: Element) -> None:
    """Remove all that would affect the rest of the page from an SVG element, and its fixed size."""
    for element in list(root.iter()):
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        if element.tag == "g":
            element.attrib.pop("id", None)  # the pictures of a page would share it
        if (target := element.attrib.pop(f"{{{XLINK}}}href", None)) is not None:
            element.attrib["href"] = target
    for definitions in root.findall("defs[style]"):
        root.remove(definitions)  # a style here applies to the whole page
    for size in ("width", "height"):
        del root.attrib[size]


def legend_entry(name: str, color: str, style: str = "-") -> str:
    """Return a legend entry, a piece of line and its name, as elements of a page."""
    line = "╍╍" if style == "--" else "━━"
    return f'<span style="color: {to_hex(color)}" aria-hidden="true">{line}</span> {name}'


def figure_element(*pictures: str, caption: str) -> str:
    """Return an element of a page with pictures side by side, or one below the other if there is no room.

    The caption is above them: it says which colour is which, and a phone shows one picture at a time.
    """
    return f'<figure class="pictures"><figcaption>{caption}</figcaption><div>{"".join(pictures)}</div></figure>'
