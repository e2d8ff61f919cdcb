"""Test the neurons that learn before the reader's eyes: what they show, and that a phone shows it at once."""

from math import exp

import pytest
from playwright.sync_api import expect
from reading import WIDTHS, hidden_parts, number, output

from ce_torch import QuadraticCost
from ce_torch.chapter import neuron

# What a reader on a phone must see at once while a neuron runs: the dot, the cost, the factors and the button.
SEEN = {
    "#first-neuron": ".verdict, svg, .bar, .legend, .run-bar",
    "#two-costs": "svg, .bar, .legend, .run-bar",
}


def test_the_reader_predicts_and_is_told(learn):
    figure = learn.locator("#first-neuron")
    figure.get_by_label("near 0").check()
    expect(figure.locator(".verdict")).to_contain_text("No: after 100 epochs it is still 0.96.")
    assert output(figure) == "After 300 epochs the output is 0.20."


def test_with_motion_the_answer_waits_until_it_has_been_seen(open_learn):
    with open_learn(motion="no-preference") as page:
        figure = page.locator("#first-neuron")
        figure.get_by_label("near 0").check()
        expect(figure.locator(".verdict")).to_have_text("It runs. Watch the bars.")
        expect(figure.locator(".verdict")).to_have_text("No: after 100 epochs it is still 0.96.")
        assert int(figure.get_by_role("slider", name="epoch").input_value()) >= 100


def test_with_motion_the_neuron_takes_its_time_and_can_be_paused(open_learn):
    with open_learn(motion="no-preference") as page:
        figure = page.locator("#first-neuron")
        figure.get_by_role("button", name="Run").click()
        page.wait_for_function("document.querySelector('#first-neuron input[type=range]').valueAsNumber > 2")
        figure.get_by_role("button", name="Pause").click()
        epoch = int(figure.get_by_role("slider", name="epoch").input_value())
        assert 2 < epoch < 300
        assert output(figure).startswith(f"After {epoch} epochs")


@pytest.mark.parametrize("name", ["#first-neuron", "#two-costs"])
def test_on_a_phone_the_dot_the_cost_and_the_factors_are_seen_while_the_neuron_runs(name, open_learn):
    with open_learn(390, motion="no-preference") as page:
        page.set_viewport_size({"width": 390, "height": 664})
        figure = page.locator(name)
        run = figure.get_by_role("button", name="Run")
        figure.get_by_label("near 0").check() if name == "#first-neuron" else run.click()
        page.wait_for_function(f"document.querySelector('{name} .run-bar input').valueAsNumber > 60")
        assert hidden_parts(figure, SEEN[name]) == []
        assert figure.get_by_role("button", name="Pause").is_visible()  # it still runs


def test_the_quadratic_cost_can_be_made_to_wait(learn):
    figure = learn.locator("#two-costs")
    figure.get_by_label("my own").check()
    figure.get_by_label("w", exact=True).fill("5")
    assert "quadratic more than 20,000" not in output(figure)
    assert "Epochs until it is below 0.1: quadratic 3," in output(figure)


@pytest.mark.parametrize("w", [-5.0, 2.0, 3.3, 3.4, 5.0])
def test_the_hunt_for_a_stuck_start_says_how_long_the_quadratic_cost_waits(w, shared):
    lesson = neuron.learn(QuadraticCost(), w, 2.0, eta=0.15, epochs=5000)
    epochs = neuron.epochs_to_output(lesson, 0.1).item()
    figure = shared.locator("#two-costs")
    figure.get_by_label("my own").check()
    for name, value in {"w": w, "b": 2}.items():
        figure.get_by_label(name, exact=True).fill(str(value))
    end = "a stuck start." if epochs >= 1000 else "not stuck."
    assert figure.locator(".verdict").inner_text() == f"The quadratic cost waits {epochs:,.0f} epochs: {end}"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_hunter_of_a_stuck_start_sees_the_sliders_and_the_verdict_at_once(width, open_learn):
    with open_learn(width) as page:
        figure = page.locator("#two-costs")
        figure.get_by_label("my own").check()
        slider, verdict = figure.get_by_label("w", exact=True), figure.locator(".verdict")
        assert verdict.bounding_box()["y"] - slider.bounding_box()["y"] < 150


@pytest.mark.parametrize("start", [4.0, 6.0, 10.0])
def test_the_factors_of_the_cross_entropys_error_are_shown_and_cancel(start, shared):
    figure = shared.locator("#two-costs")
    figure.get_by_label("my own").check()
    for name in ("w", "b"):
        figure.get_by_label(name, exact=True).fill(str(start / 2))
    numbers = figure.locator(".bar.cross-entropy .bar-number")
    assert len({round(bar.bounding_box()["height"]) for bar in numbers.all()}) == 1  # each in one line
    slope_of_cost, slope, delta = map(number, numbers.all_inner_texts())
    a = 1 / (1 + exp(-start))
    assert slope_of_cost == pytest.approx(1 / (1 - a), rel=2e-3)
    assert slope == pytest.approx(a * (1 - a), rel=0.03)
    assert delta == pytest.approx(a, abs=5e-4)
