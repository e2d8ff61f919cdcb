"""Test the notebook as readers see it: in a browser, narrow or wide, light or dark, without a network."""

from math import exp
from statistics import median

import pytest
from pen import draw
from playwright.sync_api import expect

# A page of a notebook takes seconds to open.
pytestmark = pytest.mark.slow

SCREENS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]

# Move a slider by a key, and return the milliseconds until a figure changes. A reader should not wait longer than 200.
# No test requires that, since its machine may be busy.
MOVE = """(slider, [number, key]) => new Promise((done, fail) => {
  const figure = () => document.querySelectorAll("figure")[number]?.innerHTML;
  const before = figure();
  const start = performance.now();
  const watch = new MutationObserver(() => {
    if (figure() === before) return;
    watch.disconnect();
    requestAnimationFrame(() => done(performance.now() - start));
  });
  watch.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
  setTimeout(() => fail("the figure has not changed for minutes"), 300_000);
  slider.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, composed: true }));
})"""

INKED = """(canvas) => new Promise((done, fail) => {
  setTimeout(() => fail("the middle of the canvas has had no ink for minutes"), 300_000);
  const look = () => {
    const [, , , alpha] = canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data;
    if (alpha > 200) done();
    else requestAnimationFrame(look);
  };
  look();
})"""

TEN_FRAMES = """() => new Promise((done) => {
  const wait = (frames) => (frames ? requestAnimationFrame(() => wait(frames - 1)) : done());
  wait(10);
})"""

# Return the formulas that have a letter which is not wholly within the box that cuts what is outside of it.
CUT = """(boxes) => boxes
  .filter((box) => {
    const { bottom, left, right, top } = box.getBoundingClientRect();
    const leaves = [...box.querySelectorAll(".katex-html *")].filter((e) => !e.children.length);
    const letters = leaves.filter((e) => /\\w|∂/.test(e.textContent));
    const rects = letters.map((letter) => letter.getBoundingClientRect());
    return !rects.length || rects.some((r) => r.bottom > bottom || r.top < top || r.left < left || r.right > right);
  })
  .map((box) => box.textContent)"""

DOT = """() => {
  const dot = [...document.querySelector("figure").querySelectorAll("use")].at(-1).getBoundingClientRect();
  return [dot.x, dot.y];
}"""

BRIGHTNESS = """(text) => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d");
  pen.fillStyle = getComputedStyle(text).fill;
  pen.fillRect(0, 0, 1, 1);
  return pen.getImageData(0, 0, 1, 1).data[0];
}"""


def slider(page, number):
    return page.locator("[role=slider]").nth(number)


def figure(page, number):
    return page.locator("figure").nth(number)


@pytest.fixture(scope="module", params=SCREENS, ids=lambda screen: f"{screen[0]}-{screen[1]}")
def screen(request, open_page):
    """The notebook on each kind of screen, opened once for all tests."""
    width, scheme = request.param
    with open_page(width, scheme) as page:
        yield page, width, scheme


def press_run(page):
    page.get_by_role("button", name="Run").click()
    page.wait_for_function("document.querySelector('figure').innerText.includes('→')")


def place(page):
    """Return the place of the last dot in the first figure, the output of the cross-entropy. It goes right and down."""
    return page.evaluate(f"({DOT})()")


def test_the_page_is_no_wider_than_the_screen(screen):
    page, width, _ = screen
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for box in (picture.bounding_box() for picture in page.locator("figure svg").all()):
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_no_formula_is_cut_off(screen):
    page, _, _ = screen
    formulas = page.locator(".katex-display")
    expect(formulas).to_have_count(9)
    assert formulas.evaluate_all(CUT) == []


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 720)])
def test_the_sigmoid_and_its_dots_are_beside_run_on_the_first_screen(open_page, width, height):
    with open_page(width, height=height) as page:
        run, picture = page.get_by_role("button", name="Run"), page.locator("figure svg").first
        assert picture.get_attribute("aria-label").startswith("σ")
        for shown in (run, picture):
            box = shown.bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= height


def test_the_ink_of_the_pictures_suits_the_colour_scheme(screen):
    page, _, scheme = screen
    assert (page.locator("figure svg text").first.evaluate(BRIGHTNESS) > 128) == (scheme == "dark")


def test_run_shows_how_the_neuron_learns(screen):
    page, _, _ = screen
    assert "→" not in figure(page, 0).inner_text()
    press_run(page)
    page.wait_for_function(f"([x, y]) => ({DOT})()[0] > x && ({DOT})()[1] > y", arg=place(page))


def test_run_can_be_pressed_again(page):
    press_run(page)
    page.wait_for_function(f"([x, y]) => ({DOT})()[0] > x + 10", arg=place(page))
    late = place(page)
    press_run(page)
    assert page.wait_for_function(f"([x, y]) => ({DOT})()[0] < x", arg=late).json_value()


def test_with_reduced_motion_the_end_is_shown_at_once(page):
    page.emulate_media(reduced_motion="reduce")
    press_run(page)
    before = place(page)
    page.evaluate(TEN_FRAMES)
    assert place(page) == before


@pytest.mark.parametrize(("number", "figure_number"), [(0, 0), (5, 1)], ids=["w", "z1"])
def test_a_slider_moves_its_picture_with_every_key(number, figure_number, shared_page, record_property):
    before = figure(shared_page, figure_number).inner_html()
    waits = [slider(shared_page, number).evaluate(MOVE, [figure_number, key]) for key in ["ArrowRight"] * 3]
    record_property("median_wait_ms", round(median(waits)))
    assert figure(shared_page, figure_number).inner_html() != before


def test_a_slider_moves_its_own_picture_only(shared_page):
    others = [figure(shared_page, number).inner_html() for number in (0, 2)]
    slider(shared_page, 5).evaluate(MOVE, [1, "ArrowRight"])
    assert [figure(shared_page, number).inner_html() for number in (0, 2)] == others


def test_no_slider_has_more_values_than_pixels(shared_page):
    for number in range(shared_page.locator("[role=slider]").count()):
        moved = slider(shared_page, number)
        low, high, before = (float(moved.get_attribute(f"aria-value{name}")) for name in ("min", "max", "now"))
        key, back = ("ArrowRight", "ArrowLeft") if before < high else ("ArrowLeft", "ArrowRight")
        moved.press(key)
        step = abs(float(moved.get_attribute("aria-valuenow")) - before)
        moved.press(back)
        pixels = moved.locator("xpath=ancestor::*[@data-orientation][1]").bounding_box()["width"]
        assert (high - low) / step <= pixels


def test_a_test_image_is_chosen_by_its_number(page):
    number_of_image(page).fill("0")
    page.keyboard.press("Tab")
    expect(page.get_by_text("The digit is a 7")).to_be_visible()


def number_of_image(page):
    return page.locator("marimo-number input").last


def test_the_next_mistake_is_one(page):
    page.get_by_role("button", name="Next mistake").click()
    expect(page.get_by_text("The network says 2. ▼ The digit is a 0")).to_be_visible()
    expect(number_of_image(page)).to_have_value("126")


def test_an_empty_canvas_says_no_digit(page):
    page.get_by_role("tab", name="Draw").click()
    expect(page.get_by_text("Draw a digit. Without ink")).to_be_visible()
    assert page.locator("svg[aria-label^='Ten outputs']").count() == 0
    draw(page.locator("canvas"), [(0.5, 0.1), (0.5, 0.9)])
    expect(page.locator("svg[aria-label^='Ten outputs']")).to_have_count(2)
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("Draw a digit. Without ink")).to_be_visible()


def test_a_drawn_digit_is_read(page):
    page.get_by_role("tab", name="Draw").click()
    draw(page.locator("canvas"), [(0.25, 0.2), (0.75, 0.2), (0.45, 0.85)])
    expect(page.locator("figure svg[aria-label='Ten outputs; 7 is the largest']")).to_have_count(2)


def test_a_drawing_stays_while_test_images_are_shown(page):
    page.get_by_role("tab", name="Draw").click()
    draw(page.locator("canvas"), [(0.5, 0.1), (0.5, 0.9)])
    expect(page.locator("figure svg[aria-label='Ten outputs; 1 is the largest']")).to_have_count(2)
    page.get_by_role("tab", name="Pick").click()
    page.get_by_role("tab", name="Draw").click()
    page.locator("canvas").evaluate(INKED)


def test_z_can_be_typed_to_every_digit(shared_page):
    type_first_z(shared_page, "2.345")
    expect(shared_page.get_by_text(f"{1 / (1 + exp(-2.345)):.6f}")).to_have_count(3)  # three ways


def test_the_page_says_where_autograd_is_not_finite(shared_page):
    type_first_z(shared_page, "40")
    expect(shared_page.get_by_text("that is infinite in floating point")).to_be_visible()


def test_the_page_asks_for_a_number_in_an_empty_box(shared_page):
    type_first_z(shared_page, "")
    expect(shared_page.get_by_text("Type a number into every box.")).to_be_visible()


def type_first_z(page, value):
    page.locator("marimo-number input").first.fill(value)
    page.keyboard.press("Tab")
