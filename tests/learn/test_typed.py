"""Test what the page makes of the formulas that readers type."""

from math import exp, log

import pytest

VALUES = {"a": 0.3, "y": 0.7, "z": -1.2, "x": 2.5, "aj": 0.4, "ak": 0.6}
a, y, z, x, aj, ak = VALUES.values()
SIGMOID = 1 / (1 + exp(-z))

READ = {
    "a - y": a - y,
    "(a − y) x": (a - y) * x,
    "a(1-a)": a * (1 - a),
    "ay": a * y,
    "ajak": aj * ak,
    "a_j a_k": aj * ak,
    "-a^2": -(a**2),
    "2^-1": 0.5,
    "2^3^2": 512,
    "(a−y)²": (a - y) ** 2,
    "a/x/y": a / x / y,
    "1 - 2 - 3": -4,
    "-[y ln a + (1 - y) ln(1 - a)]": -(y * log(a) + (1 - y) * log(1 - a)),
    "-log(a)": -log(a),
    "exp(-z)/(1+e^-z)^2": exp(-z) / (1 + exp(-z)) ** 2,
    "(a - y) σ'(z)": (a - y) * SIGMOID * (1 - SIGMOID),
    "(a - y) σ′": (a - y) * SIGMOID * (1 - SIGMOID),
    "sigma(z)(1 − sigma(z))": SIGMOID * (1 - SIGMOID),
    "ln a x": log(a) * x,
    "--a": a,
    ".5 · a": 0.5 * a,
}

UNREADABLE = {
    "": "Type a formula first.",
    "a +": "The formula ends too early.",
    "(a - y": "A parenthesis is not closed.",
    "a)": "There is a “)” too many.",
    "q": "I cannot read “q”.",
    "alert(1)": "I cannot read “l”.",
    "constructor": "I cannot read “c”.",
    "ln": "ln needs an argument.",
    "*a": "There is a “*” where a number or a letter should be.",
    "(" * 10_000 + "a": "That is nested too deeply.",
    "-" * 10_000 + "a": "That is nested too deeply.",
}

ANSWERS = {
    "roles": ["-(y ln a + (1 - y) ln(1 - a))"],
    "slope-in-a": ["(a-y)/(a(1-a))", "-y/a + (1-y)/(1-a)"],
    "binary-entropy": ["-y ln y - (1-y) ln(1-y)"],
    "sigma-slope": ["a(1-a)", "a - a²"],
    "quadratic-by-w": ["x (a-y) σ'(z)", "x(a-y)a(1-a)"],
    "cross-entropy-delta": ["a - y", "σ(z) - y"],
    "cross-entropy-by-w": ["x(a - y)"],
    "linear-delta": ["a-y", "z-y"],
    "linear-by-w": ["(a-y)x"],
    "any-cost-by-w": ["δx", "delta x"],
    "softmax-own": ["aj(1-aj)"],
    "softmax-other": ["-aj ak", "-a_j a_k"],
    "likelihood-delta": ["aj - yj"],
    "likelihood-by-w": ["x(aj - yj)"],
    "ties-at-infinity": ["1/r"],
    "all-at-zero": ["1/K"],
    "sigmoid-sum": ["ln 9, ln 4, 0"],
    "non-local": ["1, 0, 0"],
    "invert": ["ln 0.7, ln 0.2, ln 0.1", "(1 + ln 0.7, 1 + ln 0.2, 1 + ln 0.1)"],
}

WRONG = [
    ("roles", "-(a ln y + (1 - a) ln(1 - y))", "not a finite number"),
    ("quadratic-by-w", "(a - y) x", "Not yet. At a = "),
    ("cross-entropy-delta", "y - a", "only the sign is wrong"),
    ("softmax-other", "-aj(1-aj)", "Not yet."),
    ("sigmoid-sum", "0, -40, 0", "so move one of them"),
    ("non-local", "2, 0, 0", "Leave the first of them at 1."),
    ("invert", "1, 2", "Type three numbers"),
    ("invert", "a, 1, 2", "I cannot read “a”. Use numbers, + − * / ^ ( ), ln, exp and σ (or sigma)."),
    ("any-cost-by-w", "d x", "I cannot read “d”. Use δ (or delta), x, numbers,"),
    ("ties-at-infinity", "1", "Not yet."),
]


def compile_and_call(page, text):
    return page.evaluate(
        "([text, values]) => Expression.compile(text, Object.keys(values))(values)",
        [text, VALUES],
    )


@pytest.mark.parametrize(("text", "value"), READ.items())
def test_a_formula_is_read_as_on_paper(text, value, shared):
    assert compile_and_call(shared, text) == pytest.approx(value, rel=1e-12)


def test_what_cannot_be_read_is_answered_with_a_sentence(shared):
    found = shared.evaluate(
        """(texts) => texts.map((text) => {
            try {
                Expression.compile(text, ["a", "y", "z"]);
            } catch (error) {
                return error instanceof Expression.Unreadable ? error.message : `other: ${error}`;
            }
            return "read";
        })""",
        list(UNREADABLE),
    )
    for text, message, expected in zip(UNREADABLE, found, UNREADABLE.values(), strict=True):
        assert message.startswith(expected), text[:20]


def grade(page, name, text):
    return page.evaluate("([name, text]) => Answers.grade(name, text)", [name, text])


def test_every_question_has_a_right_answer_that_the_page_accepts(shared):
    asked = shared.evaluate("[...document.querySelectorAll('[data-answer]')].map((box) => box.dataset.answer)")
    assert sorted(asked) == sorted(ANSWERS) == sorted(shared.evaluate("Answers.names"))
    for name, texts in ANSWERS.items():
        for text in texts:
            assert grade(shared, name, text)["right"], (name, text)


@pytest.mark.parametrize(("name", "text", "reason"), WRONG)
def test_a_wrong_answer_is_told_why(name, text, reason, shared):
    found = grade(shared, name, text)
    assert not found["right"]
    assert reason in found["message"]


def test_on_a_phone_a_typed_formula_is_seen_whole(open_learn):
    with open_learn(390) as page:
        box = page.locator("#exercises input[type=text]").first
        box.fill("-(y ln a + (1-y) ln(1-a))")
        assert box.evaluate("(box) => box.scrollWidth <= box.clientWidth")


def test_the_reader_types_an_answer_and_reads_the_verdict(learn):
    box = learn.get_by_label("σ′(z) =")
    box.fill("a(1+a)")
    box.press("Enter")
    verdict = learn.locator("#answer-sigma-slope-verdict")
    assert verdict.inner_text().startswith("✗ Not yet. At a = 0.12 yours is 0.1344; it should be 0.1056.")
    box.fill("a(1-a)")
    box.press("Enter")
    assert verdict.inner_text().startswith("✓ Right")
    assert learn.locator(".progress").inner_text() == "1 of 19 questions answered."
