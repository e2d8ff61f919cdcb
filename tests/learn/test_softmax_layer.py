"""Test the figures of softmax: its limits, its slopes, and the Hessian of its cost."""

import pytest
from reading import hidden_parts, number

# The slopes that a figure shows: the number, the colour, and how much of the longest bar or strongest colour.
BARS_OF_SLOPES = """() => [...document.querySelectorAll("#softmax .bar.signed")].map((bar) => {
  const fill = bar.querySelector(".bar-fill");
  const share = (2 * fill.getBoundingClientRect().width) / fill.parentElement.getBoundingClientRect().width;
  return [bar.querySelector(".bar-number").textContent, getComputedStyle(fill).getPropertyValue("--color"), share];
})"""
CELLS_OF_SLOPES = """() => [...document.querySelectorAll("#hessian table:first-child td")].map((cell) => {
  const style = getComputedStyle(cell);
  return [cell.textContent, style.getPropertyValue("--color"), Number(style.getPropertyValue("--share"))];
})"""


def test_softmax_goes_to_both_limits_with_a_tie(shared):
    part = shared.locator("#softmax")
    factor = part.get_by_label("factor c")
    outputs = part.locator(".log-likelihood .bar-number")
    factor.press("End")
    assert outputs.all_inner_texts() == ["0.000", "0.000", "1.000", "0.000"]
    part.get_by_role("button", name="Make a tie").click()
    assert outputs.all_inner_texts() == ["0.500", "0.000", "0.500", "0.000"]
    factor.press("Home")
    assert outputs.all_inner_texts() == ["0.250"] * 4


def test_a_slope_of_softmax_reads_alike_as_a_bar_and_as_a_cell(learn):
    assert_one_convention(learn.evaluate(BARS_OF_SLOPES), 0.25)
    assert_one_convention(learn.evaluate(CELLS_OF_SLOPES), 0.25)
    learn.locator("#softmax").get_by_label("factor c").press("End")
    learn.locator("#softmax").get_by_label("factor c").press("ArrowLeft")  # c = 10
    assert_one_convention(learn.evaluate(BARS_OF_SLOPES), 2.5)


def assert_one_convention(slopes, steepest):
    """Assert that the colour tells the sign, and the share of the longest the size."""
    purple, orange = "#5c4a8a", "#a1500f"
    for text, color, share in slopes:
        assert share == pytest.approx(abs(number(text)) / steepest, abs=0.005)
        assert color == (orange if number(text) < 0 else purple) or number(text) == 0


def test_the_covariance_of_draws_is_near_the_hessian(shared):
    part = shared.locator("#hessian")
    part.get_by_role("button", name="Draw 1,000").click()
    tables = part.locator("table").evaluate_all(
        "(tables) => tables.map((table) => [...table.querySelectorAll('td')].map((cell) => cell.textContent))"
    )
    for hessian, covariance in zip(*tables, strict=True):
        assert abs(number(hessian) - number(covariance)) < 0.08  # five standard deviations


def test_on_a_phone_the_sliders_of_the_hessian_and_its_tables_are_seen_together(open_learn):
    with open_learn(390) as page:
        page.set_viewport_size({"width": 390, "height": 664})
        figure = page.locator("#hessian")
        figure.evaluate("(figure) => figure.scrollIntoView({ block: 'start', behavior: 'instant' })")
        assert hidden_parts(figure, "table, .slider, button") == []
