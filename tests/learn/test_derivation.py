"""Test the derivations: their steps, each of which opens, and the buttons that open them in turn and stay in reach."""

import pytest
from playwright.sync_api import expect

# The derivations: how many steps they have, in which step a factor is struck out, and what all lines are for z = −1.5:
# a σ′ = 0.1824 · 0.1491 with the quadratic cost; with the cross-entropy σ′ / a, −σ′ / (1 − a), and then a.
DERIVATIONS = [
    ("#slopes", 3, None, ["= 0.0272"] * 3),
    ("#derivation", 6, 5, ["= 0.8176 and −0.1824", *["= 0.1824"] * 5]),
]
NAMES = [(name, count) for name, count, *_ in DERIVATIONS]


@pytest.mark.parametrize(("name", "count", "struck", "values"), DERIVATIONS)
def test_the_steps_open_one_by_one_and_the_factor_is_struck_out(name, count, struck, values, learn):
    part = learn.locator(name)
    for step in range(1, count + 1):
        assert opened(part) == list(range(step))
        assert (part.get_attribute("class") == "play struck") == (struck is not None and step >= struck)
        if step < count:
            part.get_by_role("button", name="Next step").click()
    part.get_by_label("z", exact=True).fill("-1.5")
    assert part.locator("[data-line]").all_inner_texts() == values


@pytest.mark.parametrize(("name", "count"), NAMES)
@pytest.mark.parametrize("way", ["finger", "Enter", "Space"])
def test_each_step_opens_and_closes_by_itself(name, count, way, learn):
    part = learn.locator(name)
    for step in range(1, count):
        heading = part.locator("summary").nth(step)
        for expected in ([0, step], [0]):
            heading.click() if way == "finger" else heading.press(way)
            assert opened(part) == expected
            expect(part.locator("[data-line]").nth(step)).to_be_visible(visible=step in expected)


def test_a_step_that_a_finger_opens_is_on_the_screen(open_learn):
    with open_learn(390) as page:
        page.set_viewport_size({"width": 390, "height": 664})
        part = page.locator("#derivation")
        for step in range(1, 6):
            part.locator("summary").nth(step).click()
            line, bar = part.locator("[data-line]").nth(step), part.locator(".stepper")
            page.wait_for_function(
                "([line, bar]) => line.getBoundingClientRect().bottom <= bar.getBoundingClientRect().top + 0.5",
                arg=[line.element_handle(), bar.element_handle()],
            )


def test_the_slider_of_a_derivation_is_beside_every_line(open_learn):
    with open_learn(390) as page:
        page.set_viewport_size({"width": 390, "height": 664})
        for name, count in NAMES:
            part = page.locator(name)
            part.get_by_role("button", name="All steps").click()
            for step in range(count):
                part.locator("[data-line]").nth(step).scroll_into_view_if_needed()
                expect(part.get_by_label("z", exact=True)).to_be_in_viewport(ratio=1)


def test_every_equation_of_a_derivation_is_a_step(shared):
    numbers = shared.evaluate("[...document.querySelectorAll('.steps .equation')].map((e) => e.id).filter(Boolean)")
    assert numbers == [f"eq-{number}" for number in (55, 56, 58, 59, 60, 61, 62)]


@pytest.mark.parametrize(("name", "count"), NAMES)
@pytest.mark.parametrize("height", [640, 844])
def test_a_finger_that_stays_where_it_is_opens_all_steps_and_closes_them(name, count, height, open_learn):
    with open_learn(390) as page:
        page.set_viewport_size({"width": 390, "height": height})
        forward, back = (page.locator(name).get_by_role("button", name=text) for text in ("Next step", "Back"))
        forward.scroll_into_view_if_needed()
        for button, steps in ((forward, range(2, count + 1)), (back, range(count - 1, 0, -1))):
            box = button.bounding_box()
            for step in steps:
                page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
                assert_step_is_seen(page, name, step)


@pytest.mark.parametrize(("name", "count"), NAMES)
def test_the_keyboard_opens_all_steps_and_is_never_lost(name, count, open_learn):
    with open_learn(390) as page:
        page.locator(name).get_by_role("button", name="Next step").focus()
        for step in range(2, count + 1):
            page.keyboard.press("Enter")
            assert_step_is_seen(page, name, step)
        page.keyboard.press("Enter")  # on Back, since there is no further step
        assert_step_is_seen(page, name, count - 1)


def opened(part):
    """Return the numbers of the steps that are open, from 0."""
    return part.locator(".steps details").evaluate_all(
        "(steps) => steps.map((step, i) => (step.open ? i : -1)).filter((i) => i >= 0)"
    )


def assert_step_is_seen(page, name, step):
    """Assert that a step is the last one that is open, seen whole, and that the buttons are on the screen below it."""
    assert opened(page.locator(name)) == list(range(step))
    box = page.locator(f"{name} .steps details").nth(step - 1).bounding_box()
    bar = page.locator(f"{name} .stepper").bounding_box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= bar["y"] + 0.5
    assert bar["y"] + bar["height"] <= page.viewport_size["height"] + 0.5


def test_a_link_to_an_equation_opens_its_step(learn):
    learn.locator("#design-a-cost").get_by_role("link", name="(61)").click()
    expect(learn.locator("#eq-61")).to_be_in_viewport()


def test_an_identity_that_a_step_uses_leads_to_its_exercise(learn):
    learn.locator("#derivation").get_by_role("button", name="All steps").click()
    learn.locator("#derivation").get_by_role("link", name="an exercise").click()
    expect(learn.get_by_label("σ′(z) =")).to_be_in_viewport()
