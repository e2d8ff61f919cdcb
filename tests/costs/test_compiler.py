"""A compiler makes the kernels for the CPU. Costs work whatever it does."""

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ce_torch.costs.kernels import compiler, gpu, kernels_are_on
from ce_torch.functional import log_likelihood


@pytest.fixture(autouse=True)
def backend() -> None:
    """Run the kernels, as users do."""


@pytest.fixture
def compiler_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that makes a shell script the compiler. The script sees the arguments as "$@"."""

    def compiler_that(does):
        script = tmp_path / "compiler"
        script.write_text(f"#!/bin/sh\n{does}\n")
        script.chmod(0o700)
        monkeypatch.setenv("CXX", str(script))

    return compiler_that


@pytest.fixture
def switch(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that sets CE_TORCH_KERNELS, as before the first cost of a run."""

    def switch(value):
        monkeypatch.setenv("CE_TORCH_KERNELS", value)
        kernels_are_on.cache_clear()

    yield switch
    monkeypatch.undo()
    kernels_are_on.cache_clear()


@pytest.mark.usefixtures("needs_a_compiler")
@pytest.mark.parametrize("named", ["{} -g", " "], ids=["with options", "blank"])
def test_the_compiler_may_be_named_with_its_options_or_not_at_all(has_kernels, named, monkeypatch):
    monkeypatch.setenv("CXX", named.format(os.environ.get("CXX") or "c++"))
    assert has_kernels()


def test_the_log_says_that_cxx_is_no_command(has_kernels, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "'g++")
    assert not has_kernels()
    assert "CXX must be a command such as 'ccache g++', got \"'g++\"" in caplog.text


def test_without_a_compiler_the_formulas_run_and_the_log_says_so(cache, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        C = log_likelihood(torch.zeros(2, 4), torch.tensor([0, 1]))
        log_likelihood(torch.zeros(2, 4), torch.tensor([0, 1]))
    torch.testing.assert_close(C, torch.tensor(4.0).log())
    (line,) = caplog.messages
    assert "there is no C++ compiler" in line


@pytest.mark.usefixtures("needs_a_compiler")
def test_without_kernels_that_compile_costs_work(cache, has_kernels, monkeypatch, caplog):
    monkeypatch.setattr(compiler, "read_sources", lambda: {"wrong.cpp": "int main( {"})
    assert not has_kernels()
    assert "wrong.cpp" in caplog.text
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("needs_a_compiler")
def test_kernels_with_another_abi_are_not_loaded_and_the_log_says_so(has_kernels, monkeypatch, caplog):
    monkeypatch.setattr(compiler, "ABI_VERSION", compiler.ABI_VERSION + 1)
    assert not has_kernels()
    assert f"the kernels must have ABI {compiler.ABI_VERSION}, got {compiler.ABI_VERSION - 1}" in caplog.text


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("printf 'caf\\351' >&2; exit 1", "caf"),  # é in an encoding that is not Python's
        ("exit 0", "made no file"),
        ('while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"', "kernels.so"),
        ("kill -9 $$", "failed"),
    ],
    ids=["fails", "makes no file", "makes nonsense", "is killed"],
)
def test_with_a_compiler_that_makes_no_kernels_costs_work(cache, has_kernels, compiler_that, does, said, caplog):
    compiler_that(does)
    assert not has_kernels()
    (line,) = caplog.messages
    assert said in line
    assert list(cache.iterdir()) == []


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(
    cache, has_kernels, compiler_that, monkeypatch, tmp_path, caplog
):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(compiler, "PATIENCE", 0.1)
    monkeypatch.setattr(compiler, "LIMIT", 1.0)
    compiler_that(f"exec > {shlex.quote(str(pipe))}; sleep 1000 & sleep 1000")
    assert not has_kernels()
    waits, ended = caplog.messages
    assert "waits for the compiler" in waits
    assert "CE_TORCH_KERNELS=0" in waits
    assert "was not done after 1 s" in ended
    os.set_blocking(end, True)
    assert os.read(end, 1) == b""  # the pipe ends when no process has it open
    os.close(end)


@pytest.mark.usefixtures("needs_a_compiler")
def test_a_slow_compiler_is_waited_for_and_the_log_says_so(has_kernels, monkeypatch, caplog):
    monkeypatch.setattr(compiler, "PATIENCE", 0.0)
    assert has_kernels()
    (line,) = caplog.messages
    assert "waits for the compiler" in line


@pytest.mark.usefixtures("needs_a_compiler")
def test_the_log_does_not_mention_a_fast_compiler(has_kernels, monkeypatch, caplog):
    monkeypatch.setattr(compiler, "PATIENCE", 1000.0)
    with caplog.at_level(logging.WARNING):
        assert has_kernels()
    assert not caplog.messages


@pytest.mark.usefixtures("needs_a_compiler")
def test_a_server_that_a_compiler_starts_is_not_waited_for(has_kernels, compiler_that, tmp_path):
    real = os.environ.get("CXX") or "c++"
    compiler_that(f'sleep 1000 & echo $! > {shlex.quote(str(tmp_path / "server"))}; exec {real} "$@"')
    assert has_kernels()
    os.kill(int((tmp_path / "server").read_text()), signal.SIGKILL)


def test_a_keyboard_interrupt_ends_the_compiler(has_kernels, compiler_that, monkeypatch):
    def interrupted(process, command):
        interrupted.process = process
        raise KeyboardInterrupt

    monkeypatch.setattr(compiler, "wait", interrupted)
    compiler_that("exec sleep 1000")
    with pytest.raises(KeyboardInterrupt):
        has_kernels()
    assert interrupted.process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("needs_a_compiler")
def test_kernels_can_be_turned_off(has_kernels, switch, caplog, monkeypatch):
    z, y = torch.randn(2, 3), torch.tensor([0, 1])
    switch("0")
    with caplog.at_level(logging.INFO):
        assert not has_kernels()
    assert not caplog.messages
    monkeypatch.setattr(gpu, "is_on_gpu", lambda z: True)
    monkeypatch.setattr(gpu, "has_triton", lambda: True)
    assert gpu.refusal(z, y) == "CE_TORCH_KERNELS=0 turns them off"


@pytest.mark.usefixtures("needs_a_compiler")
@pytest.mark.parametrize("value", ["1", ""])
def test_kernels_are_on_by_default(has_kernels, switch, caplog, value):
    switch(value)
    assert has_kernels()
    assert not caplog.messages


@pytest.mark.usefixtures("needs_a_compiler")
def test_a_switch_that_is_neither_on_nor_off_is_named_in_the_log(has_kernels, switch, caplog):
    switch("off")
    assert has_kernels()
    (line,) = caplog.messages
    assert re.search("CE_TORCH_KERNELS must be 0.* or 1.*got 'off'", line)


WORKERS = """
import multiprocessing, sys
import torch
from torch.utils.data import DataLoader
from ce_torch.costs.kernels import cpp
from ce_torch.functional import log_likelihood

z = torch.stack([torch.zeros(1000), torch.arange(1000.0)])
y = torch.tensor([1, 999])

class Costs(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        assert cpp.has_kernels()
        return log_likelihood(z, y)

if __name__ == "__main__":
    context, before = sys.argv[1:]
    if before == "used":
        torch.set_num_threads(2)
        log_likelihood(z.repeat(100, 1), y.repeat(100))
    for C in DataLoader(Costs(), num_workers=2, multiprocessing_context=context):
        torch.testing.assert_close(C, torch.nn.functional.cross_entropy(z, y).unsqueeze(0))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("needs_a_compiler", "cache")
@pytest.mark.parametrize(("context", "before"), [("fork", "used"), ("fork", "unused"), ("spawn", "unused")])
def test_workers_of_a_data_loader_have_kernels(context, before, tmp_path, root):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    environment = os.environ | {"PYTHONPATH": str(root)}
    workers = subprocess.run([sys.executable, str(script), context, before], env=environment, timeout=300)
    assert workers.returncode == 0
