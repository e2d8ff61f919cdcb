"""Test the imports: the costs need torch alone, and the parts of the program do not import one another."""

import ast
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ce_torch"
COSTS = sorted((PACKAGE / "costs").rglob("*.py"))
FOR_THE_PROGRAM = ["torchvision", "matplotlib", "tqdm", "PIL", "numpy", "scipy", "marimo", "anywidget"]
FOR_INTEGRATIONS = ["transformers", "accelerate", "peft"]
FOR_A_GPU = ["triton"]
FILES = sorted([*PACKAGE.rglob("*.py"), PACKAGE.parent / "train.py"])
MODULES = ["ce_torch", "ce_torch.functional", "ce_torch.training.loop", "ce_torch.training.mnist"]
PARTS = ["network", "mnist", "files"]


def imports(path, when_loaded=False):
    """Yield the full names of all that a file imports: anywhere, or only when it is loaded."""
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    tree = ast.parse(path.read_text())
    for node in tree.body if when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def foreign(names):
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"torch", "ce_torch"}


def is_in(name, package):
    return f"{name}.".startswith(f"{package}.")


def test_the_library_can_be_imported_where_only_torch_is_installed(root):
    # None makes an import of that name fail, as if it were not installed.
    others = FOR_THE_PROGRAM + FOR_A_GPU + FOR_INTEGRATIONS
    code = f"import sys; sys.modules.update(dict.fromkeys({others})); import {', '.join(MODULES)}"
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_library_does_not_load_what_only_the_program_needs(root):
    # torch itself may import numpy and tqdm if they are installed.
    code = "import sys, torch; before = set(sys.modules); import ce_torch; print(*sys.modules.keys() - before)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert not {*loaded.split()} & {*FOR_THE_PROGRAM, *FOR_A_GPU, *FOR_INTEGRATIONS}


@pytest.mark.parametrize("path", COSTS, ids=lambda path: path.stem)
def test_a_cost_imports_nothing_of_the_package_but_costs(path):
    names = [name for name in imports(path) if is_in(name, "ce_torch")]
    assert [name for name in names if not is_in(name, "ce_torch.costs")] == []


@pytest.mark.parametrize("path", COSTS, ids=lambda path: path.stem)
def test_a_cost_imports_nothing_foreign_but_torch(path):
    # Type checkers may read Triton's names anywhere; only the files of its kernels load it.
    allowed = {*FOR_A_GPU} if path.stem.startswith("gpu_") and path.stem.endswith(("kernels", "tiles")) else set()
    assert foreign(imports(path, when_loaded=True)) <= allowed
    assert foreign(imports(path)) <= {*FOR_A_GPU}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_file_imports_a_private_name_of_pytorch(path):
    # Attributes, such as those in _torch_private.py, are for ruff.
    private = [name for name in imports(path) if is_in(name, "torch") and "._" in name]
    assert private == []


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent.name != "integrations"], ids=lambda path: path.stem
)
def test_nothing_but_an_integration_imports_what_only_integrations_need(path):
    assert not foreign(imports(path)) & {*FOR_INTEGRATIONS}
    assert [name for name in imports(path) if is_in(name, "ce_torch.integrations")] == []


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_program_imports_nothing_of_the_package(part):
    assert [name for name in imports(PACKAGE / "training" / f"{part}.py") if is_in(name, "ce_torch")] == []
