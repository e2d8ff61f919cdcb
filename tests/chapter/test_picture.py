"""Test pictures for a page: they take its colours and its width, and move."""

import re
from xml.etree import ElementTree

import pytest
import torch

from ce_torch.chapter.drawing import draw_course, draw_slopes, styles
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


def test_slopes_that_are_all_0_can_be_drawn():
    assert "0.00" in picture(lambda axes: draw_slopes(axes, torch.zeros(2, 2)), "slopes")


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
