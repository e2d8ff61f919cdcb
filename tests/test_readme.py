"""What the pages show is so: their examples run, and the tests and code that their tables name are there."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
FILES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
PAGES = {str(path.relative_to(PROJECT)): path.read_text() for path in FILES}
README = PAGES["README.md"]
TESTS = "\n".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))

EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", re.DOTALL)  # and the output shown below it, if any
EXAMPLES = [(page, *example) for page, text in PAGES.items() for example in EXAMPLE.findall(text)]


@pytest.mark.parametrize(("page", "example", "shown"), EXAMPLES, ids=[page for page, *_ in EXAMPLES])
def test_examples_run(page, example, shown, monkeypatch, capsys):
    monkeypatch.chdir(PROJECT)
    exec(compile(example, page, "exec"), {})
    out, err = capsys.readouterr()
    assert shown in ("", out)
    assert "Error" not in err


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", "\n".join(PAGES.values())))))
def test_every_test_that_is_named_exists(name):
    assert re.search(rf"^def {name}\(", TESTS, re.MULTILINE)


def test_every_equation_has_its_row():
    rows = {
        number for row in re.findall(r"^\| \(([\d, ]+)\)", README, re.MULTILINE) for number in re.findall(r"\d+", row)
    }
    assert rows == {str(number) for number in range(54, 85)}
