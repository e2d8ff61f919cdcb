"""What tests of the page read from it and do with it."""

WIDTHS = 390, 1280

SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def output(figure):
    """Return the last output that a figure reports."""
    return figure.locator(".said").inner_text()


def number(text):
    """Return the number that a text such as −4.5·10⁻⁵ shows."""
    return float(text.replace("−", "-").replace("·10", "e").translate(SUPERSCRIPTS))


def hidden_parts(figure, selector):
    """Return those parts of a figure that are not wholly on the screen, or lie behind another."""
    return figure.evaluate(
        """(figure, selector) => [...figure.querySelectorAll(selector)].filter((part) => {
            const { top, bottom, left, right } = part.getBoundingClientRect();
            const onTop = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
            return top < -0.5 || bottom > innerHeight + 0.5 || !part.contains(onTop);
        }).map((part) => part.outerHTML.slice(0, 80))""",
        selector,
    )
