"""Test that no number of the page looks like 0 that is not 0."""

from math import exp

import pytest
from reading import number, output


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 3, "0.000"),
        (-0.0, 2, "0.00"),
        (-1.234, 2, "−1.23"),
        (0.00045, 3, "0.00045"),
        (-0.04, 1, "−0.040"),
        (4.54e-5, 3, "4.5·10⁻⁵"),
        (-4e-44, 3, "−4.0·10⁻⁴⁴"),
    ],
)
def test_a_number_looks_like_0_only_if_it_is_0(value, digits, text, shared):
    assert shared.evaluate("([value, digits]) => Words.fixed(value, digits)", [value, digits]) == text


def test_the_slopes_of_softmax_are_small_and_not_0_where_one_output_is_nearly_1(shared):
    figure = shared.locator("#softmax")
    figure.get_by_role("button", name="Start again").click()
    figure.get_by_role("slider", name="z₃").fill("5")
    figure.get_by_label("factor c").fill("7")  # c = 10
    slopes = [number(text) for text in figure.locator(".bar.signed .bar-number").all_inner_texts()]
    # a₁ = exp(−25), and the others are far smaller: a₃ is 1 in floating point, or nearly.
    assert slopes == pytest.approx([-10 * exp(-25), -10 * exp(-60), 10 * exp(-25), -10 * exp(-45)], rel=0.05)


def test_the_price_of_being_wrong_is_0_where_the_output_is_the_truth(shared):
    figure = shared.locator("#average-surprise")
    for share in ("0.37", "0.5", "0.99"):
        figure.get_by_label("truth y").fill(share)
        figure.get_by_label("output a").fill(share)
        assert output(figure).endswith("the rest, 0.000, is the price of being wrong.")
    figure.get_by_label("truth y").fill("1")
    assert "reaches is 0.000, at a = y = 1.00; the rest, 0.010, is" in output(figure)
