"""Test that the examples in docstrings print what they show, for a user who has imported torch and the costs."""

import ast
import doctest
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ce_torch
from ce_torch import functional

PROJECT = Path(__file__).resolve().parent.parent
# The only names that an example need not import.
NAMES = {"torch": torch} | {name: getattr(place, name) for place in (ce_torch, functional) for name in place.__all__}


def examples() -> Iterator[doctest.DocTest]:
    """Yield the examples of every docstring. Read the files without importing them: some need optional packages."""
    parser = doctest.DocTestParser()
    for path in sorted((PROJECT / "ce_torch").rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text()))
        for node in (node for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)):
            text, name = ast.get_docstring(node) or "", f"{path.stem}.{getattr(node, 'name', '')}"
            test = parser.get_doctest(text, dict(NAMES), name, str(path), getattr(node, "lineno", 0))
            if test.examples:
                yield test


EXAMPLES = list(examples())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_prints_what_it_shows(example, monkeypatch):
    monkeypatch.chdir(PROJECT)
    torch.manual_seed(0)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_every_example_is_run():
    assert sum(path.read_text().count(">>> ") for path in (PROJECT / "ce_torch").rglob("*.py")) == sum(
        len(example.examples) for example in EXAMPLES
    )


def test_no_example_is_skipped():
    assert not [example.name for example in EXAMPLES for line in example.examples if doctest.SKIP in line.options]


@pytest.mark.parametrize("name", sorted(NAMES.keys() - {"torch"}))
def test_every_public_name_has_an_example(name):
    assert NAMES[name].__name__ in {example.name.rpartition(".")[-1] for example in EXAMPLES}
