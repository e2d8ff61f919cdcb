"""Animate the lines of an SVG picture by CSS, without a script: each grows, with a dot at its end."""

import itertools
import re
from xml.etree.ElementTree import Element, SubElement

SECONDS = 4
STOPS = 80
# A browser restarts an animation only if its name is new.
plays = itertools.count()


def animate_lines(root: Element) -> None:
    """Animate every group of an SVG element whose id begins with "moving": a line, and then its dot."""
    play = next(plays)
    rules = [
        f"@keyframes grow-{play} {{ from {{ clip-path: inset(-9px 100% -9px -9px) }} "
        f"to {{ clip-path: inset(-9px 0 -9px -9px) }} }}"
    ]
    moving = [group for group in root.iterfind(".//*[@id]") if group.attrib["id"].startswith("moving")]
    for number, group in enumerate(moving):
        line, *_, dot = group
        places = points(line.attrib["d"])
        name = f"go-{play}-{number}"
        rules.append(f"@keyframes {name} {{ {stops(places)} }}")
        clipped = Element("g", {"style": animation(f"grow-{play}")})
        group.remove(line)
        clipped.append(line)
        group.insert(0, clipped)
        dot.attrib["style"] = animation(name)
    SubElement(root, "style").text = "\n".join(rules)


def animation(name: str) -> str:
    return f"animation: {name} {SECONDS}s linear both"


def points(path: str) -> list[tuple[float, float]]:
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def stops(places: list[tuple[float, float]]) -> str:
    """Return keyframes that move an element, drawn at the last place, from the first place to the last."""
    last_x, last_y = places[-1]
    number = min(STOPS, len(places))
    chosen = [round(stop * (len(places) - 1) / max(number - 1, 1)) for stop in range(number)]
    return " ".join(
        f"{100 * i / max(len(places) - 1, 1):.4g}% {{ transform: translate({x - last_x:.5g}px, {y - last_y:.5g}px) }}"
        for i in chosen
        for x, y in [places[i]]
    )
