"""Test the files of the page: that they belong together, are small, and come with their licence."""

import re
from colorsys import rgb_to_hsv
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from matplotlib.colors import to_rgb

from ce_torch.chapter.drawing import COLORS

REBUILD = "cd docs/learn/source && npm install && npm run typeset"


def test_the_page_is_what_typeset_made_of_its_sources(folder):
    page, mark, digest = (folder / "index.html").read_text(encoding="utf-8").rpartition("<!-- typeset.mjs ")
    source = folder / "source"
    sections = [path.read_text(encoding="utf-8") for path in sorted((source / "sections").iterdir())]
    frame, script = ((source / name).read_text(encoding="utf-8") for name in ("frame.html", "typeset.mjs"))
    parts = frame + "\n".join(sections) + script + page
    assert mark
    assert digest == f"{sha256(parts.encode()).hexdigest()} -->\n", REBUILD


def test_the_network_is_what_its_script_writes(folder):
    spec = spec_from_file_location("export_network", folder / "source" / "export_network.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (folder / "js" / "network.js").read_text(encoding="utf-8") == module.script()


def test_all_that_a_reader_loads_is_less_than_500_kilobytes(folder):
    loaded = [folder / "index.html", folder / "page.css", *(folder / "js").iterdir(), *(folder / "katex").rglob("*.*")]
    assert sum(path.stat().st_size for path in loaded if path.is_file()) < 500_000


@pytest.mark.parametrize("cost", ["quadratic", "cross-entropy", "log-likelihood"])
def test_a_cost_has_nearly_the_hue_that_it_has_in_all_pictures(cost, folder):
    light_and_dark = re.findall(rf"--{cost}: (#\w+);", (folder / "page.css").read_text(encoding="utf-8"))
    assert len(light_and_dark) == 2
    for color in light_and_dark:
        turn = abs(hue(color) - hue(COLORS[cost]))
        assert min(turn, 1 - turn) < 1 / 6, color


def hue(color):
    return rgb_to_hsv(*to_rgb(color))[0]


def test_katex_comes_with_its_licence(folder):
    assert "MIT" in (folder / "katex" / "LICENSE").read_text()
