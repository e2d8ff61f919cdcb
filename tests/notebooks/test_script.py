"""Test the notebook as a plain script."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_notebook_runs_in_any_folder_and_leaves_nothing_there(notebook, tmp_path):
    done = subprocess.run([sys.executable, notebook], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_marimo_finds_no_fault(notebook, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "marimo", "check", "--strict", notebook], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
