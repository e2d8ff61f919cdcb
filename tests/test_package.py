"""Test what is published: the wheel holds the library, with kernels or without, but not the chapter's program."""

import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

import ce_torch
from ce_torch.costs.kernels import installed, sources

PROJECT = Path(__file__).resolve().parent.parent


def build_wheel(folder: Path, *settings: str, **environment: str) -> Path:
    """Return the wheel, built with these settings of scikit-build-core."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    command += [word for setting in settings for word in ("--config-settings", setting)]
    subprocess.run([*command, "--wheel-dir", str(folder), str(PROJECT)], env=os.environ | environment, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the names of the files in a wheel without kernels, which is built fast."""
    with ZipFile(build_wheel(tmp_path_factory.mktemp("wheel"), "wheel.cmake=false")) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_of_the_library_and_nothing_else(names):
    library = PROJECT / "ce_torch"
    folders = library / "costs", library / "integrations"
    files = [*library.glob("*.*"), *(file for folder in folders for file in folder.rglob("*.*"))]
    assert names == {path.relative_to(PROJECT).as_posix() for path in files if path.suffix != ".pyc"}


@pytest.mark.parametrize("program", ["training", "chapter"])
def test_the_wheel_leaves_the_program_out(program, names):
    assert (PROJECT / "ce_torch" / program / "__init__.py").exists()
    assert not [name for name in names if program in Path(name).parts]


def test_where_there_is_no_compiler_the_wheel_is_built_without_kernels(tmp_path):
    wheel = build_wheel(tmp_path, CXX="no-such-compiler")
    assert wheel.name.endswith("-py3-none-any.whl")


def test_an_install_that_can_be_edited_compiles_nothing_and_takes_the_files_of_the_clone(tmp_path):
    code = f"from scikit_build_core.build import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
    (path,) = tmp_path.glob("*-py3-none-any.whl")
    with ZipFile(path) as wheel:
        assert not [name for name in wheel.namelist() if "kernels-" in name]
        (folders,) = [name for name in wheel.namelist() if name.endswith(".pth")]
        assert str(PROJECT) in wheel.read(folders).decode().splitlines()


@pytest.mark.slow
def test_an_installed_wheel_brings_all_kernels_and_a_node_and_needs_no_compiler(tmp_path):
    levels = f"cmake.define.CE_TORCH_LEVELS={installed.levels()[0]}"
    wheel = build_wheel(tmp_path, levels, f"cmake.define.CE_TORCH_NODES={sys.executable}")
    assert "-py3-none-" in wheel.name
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(tmp_path / "packages"), str(wheel)], check=True)
    alone = {"PATH": "", "CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    check = [sys.executable, str(PROJECT / "tests" / "check_installed.py"), "node"]
    environment = os.environ | alone | {"PYTHONPATH": str(tmp_path / "packages")}
    checked = subprocess.run(check, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert str(tmp_path / "packages") in checked.stdout
    assert not (tmp_path / "cache").exists()


def test_sources_that_are_written_without_torch_are_those_that_the_costs_specify(tmp_path):
    texts = sources.read_sources()
    command = [sys.executable, "-I", "-S", str(PROJECT / "cmake" / "write_sources.py"), str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == texts
    assert printed.strip() == sources.digest(texts)


def test_the_citation_names_the_version():
    assert (
        re.search(r"^version: (.*)$", (PROJECT / "CITATION.cff").read_text(), re.MULTILINE)[1] == ce_torch.__version__
    )
