"""The kernels as they are compiled for processors with narrower vectors, and by another compiler."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys

import pytest

from ce_torch.costs.kernels import compiler

level, *arguments = sys.argv[1:]
assert "-march=native" in compiler.FLAGS
compiler.LIMIT = 600
compiler.FLAGS = tuple(flag.replace("native", level) for flag in compiler.FLAGS)
sys.exit(pytest.main(arguments))
"""
FILES = (
    *("test_fuzz.py", "test_products.py", "test_layer_numbers.py", "test_softmax_statistics.py"),
    *("test_linear_bfloat16.py", "test_divergences.py"),
)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the levels are those of x86-64")
@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3"])
def test_kernels_for_older_processors_pass_the_tests(level, tmp_path, needs_a_compiler):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    files = [str(Path(__file__).with_name(name)) for name in FILES]
    command = [sys.executable, "-c", PROGRAM, level, "-q", "-n", "0", "-m", "not slow", *files]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("clang++") is None, reason="clang++ is not installed")
def test_clang_compiles_kernels_that_pass_the_tests(tmp_path, needs_a_compiler):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "CXX": "clang++"}
    file = str(Path(__file__).with_name("test_fuzz.py"))
    command = [sys.executable, "-c", PROGRAM, "native", "-q", "-n", "0", "-m", "not slow", file]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
