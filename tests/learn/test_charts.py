"""Test the charts and the bars, and the wishes for a slope that give a cost."""

import pytest
from playwright.sync_api import expect
from reading import output


@pytest.mark.parametrize(
    ("wish", "verdict"),
    [
        ("a - y", "You have found the cross-entropy (57). It is fast"),
        ("(a - y) a (1 - a)", "You have found the quadratic cost (54). It is slow"),
        ("(a − y)³", "A cost of your own. It is fast"),
        ("y - a", "This cost is not least where a = y"),
    ],
)
def test_a_wish_for_a_slope_gives_the_cost(wish, verdict, shared):
    part = shared.locator("#design")
    part.get_by_label("∂C/∂b =").fill(wish)
    assert output(part).startswith(verdict)


@pytest.mark.parametrize(("wish", "is_beyond"), [("a - y", False), ("y - a", True), ("3(a - y)", True)])
def test_a_curve_that_leaves_its_picture_is_said_to(wish, is_beyond, shared):
    part = shared.locator("#design")
    part.get_by_label("∂C/∂b =").fill(wish)
    assert output(part).endswith("Much of it is beyond the pictures.") == is_beyond


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ("1/(a - 1/2)", "Somewhere between 0 and 1 this slope is not a finite number."),
        ("a -", "The formula ends too early."),
    ],
)
def test_what_is_no_slope_is_said_beside_its_box_and_draws_no_line(wish, sentence, learn):
    part = learn.locator("#design")
    part.get_by_label("∂C/∂b =").fill(wish)
    expect(part.locator(".controls .verdict")).to_contain_text(sentence)
    paths = part.locator("path.course").evaluate_all("(lines) => lines.map((line) => line.getAttribute('d'))")
    assert paths == [""] * 3
    part.get_by_label("∂C/∂b =").fill("a - y")
    expect(part.locator(".controls .verdict")).to_have_text("")


@pytest.mark.parametrize(
    ("ys", "path"),
    [
        ([5, 9, 12, 15, 20], "M0.0 5.0L1.0 1.0L2.0 0.0"),
        ([-5, -4, 1, 30, 40, 8], "M1.0 10.0L2.0 9.0L3.0 0.0M4.0 0.0L5.0 2.0"),
        ([0, 10], "M0.0 10.0L1.0 0.0"),
    ],
)
def test_a_line_ends_at_the_edge_of_its_chart(ys, path, shared):
    found = shared.evaluate(
        """(ys) => Plot.line(
            { toX: (x) => x, toY: (y) => 10 - y, inner: { top: 0, bottom: 10 } }, ys.map((_, x) => x), ys)""",
        ys,
    )
    assert found == path


def test_a_bar_ends_in_stripes_where_it_is_longer_than_its_track(learn):
    bars = learn.evaluate(
        """[...document.querySelectorAll("#layer .bar")].map((bar) => [
            bar.querySelector(".bar-number").textContent,
            getComputedStyle(bar.querySelector(".bar-fill")).maskImage.includes("repeating")])"""
    )
    assert {text for text, striped in bars if striped} == {"4.000", "−4.000"}
