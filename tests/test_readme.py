"""What the pages show is so: their examples run, and the tests and code that their tables name are there."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text()
PAGES = README + (PROJECT / "docs" / "costs.md").read_text()
TESTS = "\n".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGES, re.DOTALL))
def test_examples_run(example, monkeypatch, capsys):
    monkeypatch.chdir(PROJECT)
    exec(compile(example, "example", "exec"), {})
    assert "Error" not in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", README))))
def test_every_test_in_a_table_exists(name):
    assert re.search(rf"^def {name}\(", TESTS, re.MULTILINE)


def test_every_equation_has_its_row():
    rows = {
        number for row in re.findall(r"^\| \(([\d, ]+)\)", README, re.MULTILINE) for number in re.findall(r"\d+", row)
    }
    assert rows == {str(number) for number in range(54, 85)}
