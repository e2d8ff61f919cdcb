"""Pictures for a page: they take its ink and room, and move where they shall."""

import re
from xml.etree import ElementTree

import pytest
import torch

from ce_torch.chapter.drawing import draw_course, draw_slopes, styles
from ce_torch.chapter.neuron import SIGMOID_COSTS, learn
from ce_torch.chapter.picture import key, picture, shown

VALUES = torch.linspace(1, 0, 301)


def draw(axes):
    draw_course(axes, VALUES, "tab:red", "quadratic", until=300).set_gid("moving-0")
    axes.set(xlabel="epoch", ylabel="a")


def test_its_ink_and_letters_are_those_of_the_page():
    text = picture(draw, "a line")
    assert "currentColor" in text
    assert "font-family" not in text
    assert not re.search("#000000|#ffffff|white|black", text)


def test_it_takes_the_room_there_is():
    root = ElementTree.fromstring(picture(draw, "a line"))
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & set(root.attrib)


def test_it_brings_no_style_or_name_that_reaches_beyond_it():
    root = ElementTree.fromstring(picture(draw, "a line"))
    assert root.find(".//style") is None
    assert not [group for group in root.iter("g") if "id" in group.attrib]


def test_it_asks_for_nothing_from_elsewhere():
    text = picture(draw, "a line", moving=True)
    assert "<!DOCTYPE" not in text
    assert set(re.findall(r"https?://[^\"]*", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_it_says_what_it_shows():
    assert ElementTree.fromstring(picture(draw, "a line")).attrib["aria-label"] == "a line"


def test_it_is_the_same_every_time():
    assert picture(draw, "a line") == picture(draw, "a line")


def test_a_moving_line_ends_where_it_stands_still():
    text = picture(draw, "a line", moving=True)
    assert re.search(r"100% { transform: translate\(0px, 0px\) }", text)
    assert re.search(r"0% { transform: translate\(-\d+\.?\d*px, -\d+\.?\d*px\) }", text)


def test_the_dot_is_with_its_line_at_every_moment():
    text = picture(draw, "a line", moving=True)
    stops = re.findall(r"([\d.]+)% { transform: translate\((.*?)px, (.*?)px\) }", text)
    percent, x, y = (torch.tensor(list(map(float, numbers))) for numbers in zip(*stops, strict=True))
    for moves in (x, y):  # this line is straight
        torch.testing.assert_close(moves / moves[0], 1 - percent / 100, rtol=0, atol=1e-3)


def test_every_play_is_a_new_one():
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
def test_the_second_lesson_of_a_cost_is_broken(costs, expected):
    assert styles([(cost, learn(SIGMOID_COSTS[cost], 2, 2, eta=0.15, epochs=1)) for cost in costs]) == expected


def test_pictures_stand_together_over_what_they_show():
    page = ElementTree.fromstring(shown(picture(draw, "one"), picture(draw, "two"), caption=key("a", "tab:red")))
    assert len(page.findall("div/")) == 2
    assert page.find("figcaption/span").attrib["style"] == "color: #d62728"
