"""Test pictures for a page: they take its colours and its width, and move."""

import re
from math import exp
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from ce_torch.chapter.drawing import (
    COLORS,
    draw_course,
    draw_lessons,
    draw_on_sigmoid,
    draw_outputs,
    draw_slopes,
    styles,
)
from ce_torch.chapter.neuron import COURSES, SIGMOID_COSTS, learn
from ce_torch.chapter.picture import figure_element, legend_entry, picture

VALUES = torch.linspace(1, 0, 301)


def draw(axes):
    draw_course(axes, VALUES, "tab:red", "quadratic", last_epoch=300).set_gid("moving-0")
    axes.set(xlabel="epoch", ylabel="a")


def test_a_picture_takes_colour_and_font_from_the_page():
    text = picture(draw, "a line")
    assert "currentColor" in text
    assert "font-family" not in text
    assert not re.search("#000000|#ffffff|white|black", text)


def test_a_picture_has_no_fixed_size():
    root = ElementTree.fromstring(picture(draw, "a line"))
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & set(root.attrib)


def test_a_picture_brings_no_style_or_id_to_its_page():
    root = ElementTree.fromstring(picture(draw, "a line"))
    assert root.find(".//style") is None
    assert not [group for group in root.iter("g") if "id" in group.attrib]


def test_a_picture_loads_nothing():
    text = picture(draw, "a line", moving=True)
    assert "<!DOCTYPE" not in text
    assert set(re.findall(r"https?://[^\"]*", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_a_picture_has_a_description():
    assert ElementTree.fromstring(picture(draw, "a line")).attrib["aria-label"] == "a line"


def test_a_picture_is_the_same_every_time():
    assert picture(draw, "a line") == picture(draw, "a line")


def test_a_moving_line_ends_at_its_still_place():
    text = picture(draw, "a line", moving=True)
    assert re.search(r"100% { transform: translate\(0px, 0px\) }", text)
    assert re.search(r"0% { transform: translate\(-\d+\.?\d*px, -\d+\.?\d*px\) }", text)


def test_the_dot_stays_at_the_end_of_its_line():
    text = picture(draw, "a line", moving=True)
    stops = re.findall(r"([\d.]+)% { transform: translate\((.*?)px, (.*?)px\) }", text)
    percent, x, y = (torch.tensor(list(map(float, numbers))) for numbers in zip(*stops, strict=True))
    for offsets in (x, y):  # this line is straight
        torch.testing.assert_close(offsets / offsets[0], 1 - percent / 100, rtol=0, atol=1e-3)


def test_every_animation_has_new_names():
    assert picture(draw, "a line", moving=True) != picture(draw, "a line", moving=True)


def test_a_picture_that_does_not_move_has_no_animation():
    assert "animation" not in picture(draw, "a line")


def test_every_slope_is_shown_with_its_sign():
    text = picture(lambda axes: draw_slopes(axes, torch.tensor([[0.25, -0.25], [-0.25, 0.25]])), "slopes")
    assert (text.count("+0.25"), text.count("−0.25")) == (2, 2)


@pytest.mark.parametrize("slope", [0.0, -0.0, 0.004, -0.004])
def test_a_slope_that_rounds_to_0_has_no_sign(slope):
    text = picture(lambda axes: draw_slopes(axes, torch.full((2, 2), slope)), "slopes")
    assert text.count("≈ 0") == 4
    assert "0.00" not in text


def test_no_slope_has_the_colour_of_a_cost():
    (axes,) = Figure().subplots(1, 1, squeeze=False).flat
    draw_slopes(axes, torch.tensor([[0.25, -0.25], [-0.25, 0.25]]))
    colours = {to_hex(patch.get_facecolor()) for patch in axes.patches}
    assert len(colours) == 2
    assert not colours & {to_hex(colour) for colour in COLORS.values()}


def test_the_colour_of_a_slope_is_as_strong_beside_a_steeper_one_and_is_strongest_for_the_steepest_of_all():
    alone, beside, steepest, sharper = (
        opacity(slope, other, c) for slope, other, c in [(0.1, 0, 1), (0.1, 0.25, 1), (0.25, 0, 1), (2.5, 0, 10)]
    )
    assert alone == beside < steepest == sharper


def opacity(slope, other, c):
    """Return the opacity of the square of a slope that is drawn beside another."""
    (axes,) = Figure().subplots(1, 1, squeeze=False).flat
    draw_slopes(axes, torch.tensor([[slope, other], [other, -slope]], dtype=torch.float64), c)
    return axes.patches[0].get_alpha()


def test_the_mark_of_the_desired_output_has_the_colour_of_the_text():
    (axes,) = Figure().subplots(1, 1, squeeze=False).flat
    draw_outputs(axes, torch.tensor([0.2, 0.8]), y=1)
    (mark,) = axes.lines
    assert mark.get_color() == rcParams["text.color"]


def both(name=None):
    """Draw two lessons on σ, or a course of theirs; return the axes and the lines with dots."""
    (axes,) = Figure().subplots(1, 1, squeeze=False).flat
    lessons = [(cost, learn(SIGMOID_COSTS[cost], 2, 2, eta=0.15, epochs=300)) for cost in SIGMOID_COSTS]
    if name is None:
        draw_on_sigmoid(axes, lessons, last_epoch=300)
    else:
        draw_lessons(axes, name, lessons, last_epoch=300)
    return axes, [line for line in axes.lines if line.get_marker() == "o"]


PICTURES = pytest.mark.parametrize("name", [None, *COURSES], ids=["σ", *COURSES])


@PICTURES
def test_a_dot_lies_whole_above_the_lines_of_the_axes(name):
    axes, lines = both(name)
    assert len(lines) == 2
    for line in lines:
        assert line.get_zorder() > max(spine.get_zorder() for spine in axes.spines.values())
        assert not line.get_clip_on()


@PICTURES
def test_a_dot_under_another_is_seen(name):
    _, (under, above) = both(name)
    assert under.get_markersize() > above.get_markersize()


def test_the_dots_lie_on_the_sigmoid_where_the_neurons_are():
    axes, lines = both()
    curve, *_ = axes.lines
    z, a = curve.get_data()
    np.testing.assert_allclose(a, 1 / (1 + np.exp(-z)))
    for line, cost in zip(lines, SIGMOID_COSTS, strict=True):
        lesson = learn(SIGMOID_COSTS[cost], 2, 2, eta=0.15, epochs=300)
        z, a = line.get_xydata()[-1]
        assert z == pytest.approx(float(lesson.w[-1] + lesson.b[-1]))
        assert a == pytest.approx(1 / (1 + exp(-z)))
        assert min(curve.get_xdata()) < z < max(curve.get_xdata())


@pytest.mark.parametrize("ground", ["#ffffff", "#181c1a"], ids=["light", "dark"])
@pytest.mark.parametrize("cost", SIGMOID_COSTS)
def test_the_trail_is_seen_on_the_ground_of_the_page(cost, ground):
    axes, _ = both("|δ|")
    (trail,) = (line for line in axes.lines if line.get_color() == COLORS[cost] and line.get_alpha() is not None)
    seen = trail.get_alpha() * np.array(to_rgb(trail.get_color())) + (1 - trail.get_alpha()) * np.array(to_rgb(ground))
    lightest, darkest = sorted((luminance(seen), luminance(to_rgb(ground))), reverse=True)
    assert (lightest + 0.05) / (darkest + 0.05) > 2


def luminance(colour):
    """Return the relative luminance of a colour in sRGB, by WCAG 2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("costs", "expected"),
    [(("quadratic", "cross-entropy"), ["-", "-"]), (("quadratic", "quadratic"), ["-", "--"])],
)
def test_the_second_line_of_a_cost_is_broken(costs, expected):
    assert styles(costs) == expected


def test_pictures_share_an_element_and_a_caption():
    page = ElementTree.fromstring(
        figure_element(picture(draw, "one"), picture(draw, "two"), caption=legend_entry("a", "tab:red"))
    )
    assert len(page.findall("div/")) == 2
    assert page.find("figcaption/span").attrib["style"] == "color: #d62728"
