"""Test what is published: the wheel holds the library without the chapter's program, and the citation its version."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from setuptools import find_packages

import ce_torch

PROJECT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
PACKAGES = find_packages(str(PROJECT), **SETUPTOOLS["packages"]["find"])


def test_the_wheel_holds_the_costs():
    folders = {path.parent for path in (PROJECT / "ce_torch" / "costs").rglob("*.py")}
    names = {".".join(folder.relative_to(PROJECT).parts) for folder in folders}
    assert set(PACKAGES) == {"ce_torch", "ce_torch.integrations", *names}


@pytest.mark.parametrize("program", ["training", "chapter"])
def test_the_wheel_leaves_the_program_out(program):
    assert (PROJECT / "ce_torch" / program / "__init__.py").exists()
    assert not [name for name in PACKAGES if program in name.split(".")]


def test_the_wheel_holds_every_file_that_the_costs_read():
    patterns = SETUPTOOLS["package-data"]["ce_torch"]
    library = PROJECT / "ce_torch"
    files = [path for path in (library / "costs").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    names = [str(path.relative_to(library)) for path in (*files, library / "py.typed")]
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_the_citation_names_the_version():
    assert (
        re.search(r"^version: (.*)$", (PROJECT / "CITATION.cff").read_text(), re.MULTILINE)[1] == ce_torch.__version__
    )
