"""Test the page as readers use it: narrow or wide, light or dark, by finger or keyboard, with or without motion."""

from math import exp

import pytest
from playwright.sync_api import expect

from ce_torch import QuadraticCost
from ce_torch.chapter import neuron

WIDTHS = 390, 1280
# The other two combinations run with the slow tests.
SCREENS = [
    pytest.param((width, scheme), id=f"{width}-{scheme}", marks=marks)
    for width, scheme, marks in [
        (390, "light", ()),
        (1280, "dark", ()),
        (390, "dark", pytest.mark.slow),
        (1280, "light", pytest.mark.slow),
    ]
]

# Elements that reach beyond the window, and formulas that are cut off.
TOO_WIDE = """() => [
  ...[...document.querySelectorAll("main *:not(.katex *)")].filter(
    (element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5),
  ...[...document.querySelectorAll(".formula")].filter((formula) => formula.scrollWidth > formula.clientWidth),
].map((element) => element.outerHTML.slice(0, 80))"""

# Texts of pictures that are cut off, wholly or in part.
CUT_OFF = """() => [...document.querySelectorAll("svg text")].filter((text) => {
  const [inner, outer] = [text, text.closest("svg")].map((element) => element.getBoundingClientRect());
  return inner.left < outer.left || inner.right > outer.right || inner.top < outer.top || inner.bottom > outer.bottom;
}).map((text) => text.textContent)"""

# Texts whose contrast with what is behind them is below WCAG's AA.
TOO_FAINT = """() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (colours) => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
    }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const colours = [];
    for (let at = element; at; at = at.parentElement) colours.unshift(getComputedStyle(at).backgroundColor);
    return colours;
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest(":disabled, math")) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const [one, other] = [luminance(rgb([...ground, ink])), luminance(rgb(ground))].sort((a, b) => b - a);
    const large = parseFloat(style.fontSize) >= 24;
    if ((one + 0.05) / (other + 0.05) < (large ? 3 : 4.5)) texts.push(walker.currentNode.data.slice(0, 40));
  }
  return texts;
}"""

NAMED = "input, button, canvas, svg[role], fieldset, summary"

WITHOUT_NAME = """(named) => [...document.querySelectorAll(named)].filter((element) => {
  const name = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ??
    element.querySelector("legend")?.textContent ?? element.textContent;
  return !name.trim();
}).map((element) => element.outerHTML.slice(0, 80))"""

# Move each slider to the ends and to the middle of its range, and return those that then stand elsewhere on the page.
RESTLESS = """() => [...document.querySelectorAll("[type=range]")].filter((slider) => {
  const tops = [0, 0.45, 1].map((share) => {
    slider.value = Number(slider.min) + share * (slider.max - slider.min);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    return slider.getBoundingClientRect().top + scrollY;
  });
  return new Set(tops).size > 1;
}).map((slider) => slider.labels[0].textContent)"""


@pytest.fixture(scope="module", params=SCREENS)
def screen(request, open_learn):
    """The page on each kind of screen, with all of it open."""
    with open_learn(*request.param) as page:
        page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        for button in page.get_by_role("button", name="All steps").all():
            button.click()
        page.locator("#two-costs").get_by_label("my own").check()
        page.locator("#reader").get_by_label("my own drawing").check()
        yield page


def test_nothing_is_wider_than_the_screen(screen):
    assert screen.evaluate(TOO_WIDE) == []


def test_no_text_of_a_picture_is_cut_off(screen):
    assert screen.evaluate(CUT_OFF) == []


def test_every_text_stands_out_from_its_ground(screen):
    assert screen.evaluate(TOO_FAINT) == []


def test_every_control_and_picture_has_a_name(screen):
    assert screen.evaluate(WITHOUT_NAME, NAMED) == []


def output(figure):
    """Return the last output that a figure reports."""
    return figure.locator(".said").inner_text()


def test_the_reader_predicts_and_is_told(learn):
    figure = learn.locator("#first-neuron")
    figure.get_by_label("near 0").check()
    expect(figure.locator(".verdict")).to_contain_text("No: after 100 epochs it is still 0.96.")
    assert output(figure) == "After 300 epochs the output is 0.20."


def test_with_motion_the_neuron_takes_its_time_and_can_be_paused(open_learn):
    with open_learn(motion="no-preference") as page:
        figure = page.locator("#first-neuron")
        figure.get_by_role("button", name="Run").click()
        page.wait_for_function("document.querySelector('#first-neuron input[type=range]').valueAsNumber > 2")
        figure.get_by_role("button", name="Pause").click()
        epoch = int(figure.get_by_role("slider", name="epoch").input_value())
        assert 2 < epoch < 300
        assert output(figure).startswith(f"After {epoch} epochs")


def test_a_keyboard_reaches_and_moves_every_control(learn):
    count = learn.evaluate(
        "[...document.querySelectorAll('input, button, summary, a')].filter((e) => e.checkVisibility()).length"
    )
    reached = set()
    for _ in range(count + 5):
        learn.keyboard.press("Tab")
        reached.add(learn.evaluate("document.activeElement.id || document.activeElement.outerHTML"))
    sliders = learn.evaluate(
        "[...document.querySelectorAll('[type=range]')].filter((e) => e.checkVisibility()).map((e) => e.id)"
    )
    assert set(sliders) <= reached
    for number in sliders:
        slider = learn.locator(f"#{number}")
        slider.press("Home")
        lowest = slider.get_attribute("aria-valuetext")
        slider.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") != lowest, number


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


@pytest.mark.parametrize("start", [4.0, 6.0, 10.0])
def test_the_factors_of_the_cross_entropys_error_are_shown_and_cancel(start, shared):
    figure = shared.locator("#two-costs")
    figure.get_by_label("my own").check()
    for name in ("w", "b"):
        figure.get_by_label(name, exact=True).fill(str(start / 2))
    numbers = figure.locator(".bar.cross-entropy .bar-number")
    assert len({bar.bounding_box()["height"] for bar in numbers.all()}) == 1  # each in one line
    slope_of_cost, slope, delta = map(number, numbers.all_inner_texts())
    a = 1 / (1 + exp(-start))
    assert slope_of_cost == pytest.approx(1 / (1 - a), rel=2e-3)
    assert slope == pytest.approx(a * (1 - a), rel=0.03)
    assert delta == pytest.approx(a, abs=5e-4)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_hunter_of_a_stuck_start_sees_the_sliders_and_the_verdict_at_once(width, open_learn):
    with open_learn(width) as page:
        figure = page.locator("#two-costs")
        figure.get_by_label("my own").check()
        slider, verdict = figure.get_by_label("w", exact=True), figure.locator(".verdict")
        assert verdict.bounding_box()["y"] - slider.bounding_box()["y"] < 150


@pytest.mark.parametrize(
    ("wish", "verdict"),
    [
        ("a - y", "You have found the cross-entropy (57). It is fast"),
        ("(a - y) a (1 - a)", "You have found the quadratic cost (54). It is slow"),
        ("(a − y)³", "A cost of your own. It is fast"),
        ("y - a", "This cost is not least where a = y"),
        ("1/(a - 1/2)", "Somewhere between 0 and 1 this slope is not a finite number."),
        ("a -", "The formula ends too early."),
    ],
)
def test_a_wish_for_a_slope_gives_the_cost(wish, verdict, shared):
    part = shared.locator("#design")
    part.get_by_label("∂C/∂b =").fill(wish)
    assert output(part).startswith(verdict)


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


def test_a_bar_ends_in_stripes_where_it_is_longer_than_its_track(learn):
    bars = learn.evaluate(
        """[...document.querySelectorAll("#layer .bar")].map((bar) => [
            bar.querySelector(".bar-number").textContent,
            getComputedStyle(bar.querySelector(".bar-fill")).maskImage.includes("repeating")])"""
    )
    assert {text for text, striped in bars if striped} == {"4.000", "−4.000"}


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


def test_a_drawing_stays_while_test_images_are_shown(learn):
    part = learn.locator("#reader")
    part.get_by_label("my own drawing").check()
    draw(learn, [(0.5, 0.1), (0.5, 0.9)])
    part.get_by_label("test images").check()
    part.get_by_label("my own drawing").check()
    assert output(part).startswith("It says 1")


SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def number(text):
    """Return the number that a text such as −4.5·10⁻⁵ shows."""
    return float(text.replace("−", "-").replace("·10", "e").translate(SUPERSCRIPTS))


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
    figure.get_by_label("z₃").fill("5")
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


def test_next_mistake_shows_a_digit_that_is_read_wrongly(learn):
    part = learn.locator("#reader")
    assert output(part).startswith("Test image 0: it says 7 (")
    part.get_by_role("button", name="Next mistake").click()
    assert "but it is a" in output(part)


def test_a_drawn_digit_is_read_large_or_small_and_an_empty_canvas_is_explained(learn):
    part = learn.locator("#reader")
    part.get_by_label("my own drawing").check()
    assert output(part).startswith("There is nothing to read yet")
    assert not part.locator(".figures").is_visible()
    for size in (0.8, 0.2):
        draw(learn, [(0.1, 0.1), (0.1 + size * 0.7, 0.1), (0.1 + size * 0.3, 0.1 + size)])
        assert output(part).startswith("It says 7")
        part.get_by_role("button", name="Clear").click()
    assert output(part).startswith("There is nothing to read yet")


def draw(page, places):
    canvas = page.locator(".paper canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for number, (x, y) in enumerate(places):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_under_the_finger(width, open_learn):
    with open_learn(width) as page:
        page.locator("#two-costs").get_by_label("my own").check()
        assert page.evaluate(RESTLESS) == []
        page.locator("#reader").get_by_label("my own drawing").check()
        canvas = page.locator(".paper canvas")
        before = canvas.evaluate("(canvas) => canvas.getBoundingClientRect().top + scrollY")
        draw(page, [(0.5, 0.1), (0.5, 0.9)])
        assert canvas.evaluate("(canvas) => canvas.getBoundingClientRect().top + scrollY") == before


# What a reader on a phone must see at once: the dot, the cost and the factors as the neuron runs, and the sliders with
# what they move.
SEEN_TOGETHER = {
    "#first-neuron": ".verdict, .neuron, .stage svg, .stage .bar, .stage .legend, .run-bar",
    "#two-costs": ".stage svg, .stage .bar, .stage .legend, .run-bar",
    "#hessian": "table, .slider, button",
}


@pytest.mark.parametrize("name", ["#first-neuron", "#two-costs"])
def test_on_a_phone_the_dot_the_cost_and_the_factors_are_seen_while_the_neuron_runs(name, open_learn):
    with open_learn(390, motion="no-preference") as page:
        page.set_viewport_size({"width": 390, "height": 664})
        figure = page.locator(name)
        run = figure.get_by_role("button", name="Run")
        figure.get_by_label("near 0").check() if name == "#first-neuron" else run.click()
        page.wait_for_function(f"document.querySelector('{name} .run-bar input').valueAsNumber > 60")
        assert hidden_parts(figure, SEEN_TOGETHER[name]) == []
        assert figure.get_by_role("button", name="Pause").is_visible()  # it still runs


def test_on_a_phone_the_sliders_of_the_hessian_and_its_tables_are_seen_together(open_learn):
    with open_learn(390) as page:
        page.set_viewport_size({"width": 390, "height": 664})
        figure = page.locator("#hessian")
        figure.evaluate("(figure) => figure.scrollIntoView({ block: 'start', behavior: 'instant' })")
        assert hidden_parts(figure, SEEN_TOGETHER["#hessian"]) == []


def hidden_parts(figure, selector):
    """Return those parts of a figure that are not wholly on the screen."""
    return figure.evaluate(
        """(figure, selector) => [...figure.querySelectorAll(selector)].filter((part) => {
            const { top, bottom } = part.getBoundingClientRect();
            return top < -0.5 || bottom > innerHeight + 0.5;
        }).map((part) => part.outerHTML.slice(0, 80))""",
        selector,
    )


# Move each slider in many steps, and return what live regions say while it moves, and what when the hand rests.
HEARD = """() => {
  let resting = null;
  window.setTimeout = (act) => ((resting = act), 1);
  window.clearTimeout = () => (resting = null);
  const live = "[role=status], [role=alert], [aria-live=polite], [aria-live=assertive], output:not([aria-live=off])";
  const watch = new MutationObserver(() => {});
  watch.observe(document.body, { subtree: true, childList: true, characterData: true });
  const said = () => watch.takeRecords()
    .map(({ target }) => (target.closest ? target : target.parentElement)?.closest(live)?.textContent)
    .filter(Boolean);
  return [...document.querySelectorAll("[type=range]")].map((slider) => {
    const figure = slider.closest(".play");
    for (let i = 0; i <= 20; i++) {
      slider.value = Number(slider.min) + (i / 25) * (slider.max - slider.min);
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    }
    const hurried = said();
    resting?.();
    resting = null;
    const sentences = [...figure.querySelectorAll(".said, .verdict")].map((place) => place.textContent);
    return { name: `${figure.id}: ${slider.labels[0].textContent}`, hurried, calm: said(), sentences };
  });
}"""


def test_a_screen_reader_hears_a_figure_when_the_hand_rests_and_not_at_each_step(learn):
    heard = learn.evaluate(HEARD)
    assert len(heard) == learn.locator("[type=range]").count()
    for figure in heard:
        assert figure["hurried"] == [], figure["name"]
        assert len(figure["calm"]) <= 1, figure["name"]
        for text in figure["calm"]:
            assert any(text.endswith(sentence) for sentence in figure["sentences"] if sentence) or "lines say" in text
    assert sum(len(figure["calm"]) for figure in heard) > len(heard) / 2
    assert any("The open lines say" in text for figure in heard for text in figure["calm"])


def test_a_page_that_nobody_has_touched_says_nothing(learn):
    learn.wait_for_timeout(1000)
    assert learn.locator(".spoken").text_content() == ""
