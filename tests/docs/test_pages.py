"""Test the pages: their examples run, the tests that they name exist, and their formulas can be typeset."""

import importlib
import re
from operator import attrgetter
from pathlib import Path

import pytest
from matplotlib.mathtext import MathTextParser

from site_extensions import IN_LINE

PROJECT = Path(__file__).resolve().parents[2]
FILES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
PAGES = {str(path.relative_to(PROJECT)): path.read_text() for path in FILES if "node_modules" not in path.parts}
EVERYTHING, EQUATIONS = "\n".join(PAGES.values()), PAGES["docs/equations.md"]
TESTS = "\n".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))

# And the output shown below it, if any. What a page takes from a file is tested there.
EXAMPLE = re.compile(r"```python\n(?!--8<--)(.*?)```(?:\n\n```\n(.*?)```)?", re.DOTALL)
EXAMPLES = [(page, *example) for page, text in PAGES.items() for example in EXAMPLE.findall(text)]

BLOCK, CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE), re.compile(r"`[^`]*`")
FORMULA = re.compile(IN_LINE)
PROSE = {page: CODE.sub("", BLOCK.sub("", text)) for page, text in PAGES.items()}
IN_LINES = [formula for text in PROSE.values() for formula in FORMULA.findall(text)]
IN_BLOCKS = [formula for text in PAGES.values() for language, formula in BLOCK.findall(text) if language == "math"]


@pytest.mark.parametrize(("page", "example", "shown"), EXAMPLES, ids=[page for page, *_ in EXAMPLES])
def test_examples_run(page, example, shown, monkeypatch, capsys):
    monkeypatch.chdir(PROJECT)
    exec(compile(example, page, "exec"), {})
    out, err = capsys.readouterr()
    assert shown in ("", out)
    assert "Error" not in err


@pytest.mark.parametrize("path", sorted((PROJECT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_every_program_among_the_examples_is_shown(path):
    assert f'```python\n--8<-- "examples/{path.name}"\n```' in PAGES["docs/recipes.md"]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", EVERYTHING))))
def test_every_test_that_is_named_exists(name):
    assert re.search(rf"^def {name}\(", TESTS, re.MULTILINE)


def test_every_equation_has_its_row():
    rows = {
        number
        for row in re.findall(r"^\| \(([\d, ]+)\)", EQUATIONS, re.MULTILINE)
        for number in re.findall(r"\d+", row)
    }
    assert rows == {str(number) for number in range(54, 85)}


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(r"`(\w+\.py)`: `([\w.]+)`", EQUATIONS))))
def test_the_code_of_every_equation_exists(file, name):
    module = importlib.import_module(f"ce_torch.costs.{file.removesuffix('.py')}")
    assert callable(attrgetter(name)(module))


FOLDERS = "ce_torch", "tests", "benchmarks", "docs", "examples", "notebooks", "data"


@pytest.mark.parametrize("path", sorted(set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.]*)`", EVERYTHING))))
def test_every_path_that_is_named_exists(path):
    assert (PROJECT / path).exists()


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("docs/")])
def test_every_link_of_a_page_beside_the_docs_leads_to_a_file(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
    assert [link for link in links if not (PROJECT / link).exists()] == []


def test_the_readme_is_one_page():
    assert len(PAGES["README.md"].splitlines()) <= 110


@pytest.mark.parametrize("formula", IN_LINES + IN_BLOCKS)
def test_every_formula_can_be_typeset(formula):
    typeset = MathTextParser("path").parse(f"${' '.join(formula.split())}$")
    assert typeset.width > 0


@pytest.mark.parametrize("formula", IN_LINES)
def test_markdown_leaves_every_formula_as_it_is(formula):
    # GitHub would read these as an escape, emphasis, HTML or a link.
    assert not re.search(r"\\[^A-Za-z]|(?<![A-Za-z0-9])_|[*<>~&]|\]\(", formula)


@pytest.mark.parametrize("page", PAGES)
def test_every_dollar_belongs_to_a_formula(page):
    assert "$" not in FORMULA.sub("", PROSE[page])
