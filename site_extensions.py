"""What the documentation needs beyond its tools: formulas that browsers typeset, and examples in docstrings."""

import re
from typing import Any

import griffe
from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor

IN_LINE = r"(?<![\w$])\$(?! )([^$]+)(?<! )\$(?![\w$])"


def mathml(formula: str, display: str = "inline") -> str:
    """Return a formula as MathML, which needs no script."""
    # A function has a space on both sides, but not before a bracket.
    found = re.sub(
        r"<mi>(ln|tanh)</mi>(?=<mo stretchy)",
        r'<mo lspace="0.17em" rspace="0">\1</mo>',
        convert(formula, display=display),
    )
    return re.sub(r"<mi>(ln|tanh)</mi>", r'<mo lspace="0.17em" rspace="0.17em">\1</mo>', found)


def block(formula: str, *arguments: Any, **options: Any) -> str:
    """Return the formula of a block "```math", as on GitHub; `pymdownx.superfences` calls it."""
    return mathml(formula, display="block")


class Formula(InlineProcessor):
    """Replaces $...$ within a line, as on GitHub."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:
        return self.md.htmlStash.store(mathml(" ".join(m[1].split()))), m.start(0), m.end(0)


class Formulas(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        # After code, before escapes and emphasis.
        md.inlinePatterns.register(Formula(IN_LINE, md), "formula", 185)


def makeExtension(**options: Any) -> Formulas:
    return Formulas(**options)


class Examples(griffe.Extension):
    """Lets "Example:" in a docstring begin a section, as "Examples:" does."""

    def on_instance(self, *, obj: griffe.Object, **others: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
