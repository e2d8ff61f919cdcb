"""Test the page as readers use it: narrow or wide, light or dark, by finger, keyboard or screen reader."""

import pytest
from pen import draw
from reading import WIDTHS

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


@pytest.fixture(scope="module", params=SCREENS)
def screen(request, open_learn):
    """The page on each kind of screen, with all of it open."""
    with open_learn(*request.param) as page:
        page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
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


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_under_the_finger(width, open_learn):
    with open_learn(width) as page:
        page.locator("#two-costs").get_by_label("my own").check()
        assert page.evaluate(RESTLESS) == []
        page.locator("#reader").get_by_label("my own drawing").check()
        canvas = page.locator(".paper canvas")
        before = canvas.evaluate("(canvas) => canvas.getBoundingClientRect().top + scrollY")
        draw(canvas, [(0.5, 0.1), (0.5, 0.9)])
        assert canvas.evaluate("(canvas) => canvas.getBoundingClientRect().top + scrollY") == before


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
