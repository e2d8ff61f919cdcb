"""The kernels that a wheel brought are used without a compiler, if they are for these sources and this processor."""

import logging
from pathlib import Path

import pytest
import torch

from ce_torch.costs.kernels import compiler, installed, store
from ce_torch.costs.kernels.sources import digest, read_sources

EVERYTHING = {name: True for needed in installed.LEVELS.values() for name in needed}
V3 = {name: True for level in ("x86-64-v2", "x86-64-v3") for name in installed.LEVELS[level]}


@pytest.fixture(autouse=True)
def backend() -> None:
    """Run the kernels, as users do."""


@pytest.fixture
def bring(cache: Path):
    """Return a function that writes a file as a wheel brings it, for this level and these sources."""

    def bring(data, level=None, sources=None):
        installed.FOLDER.mkdir(exist_ok=True)
        name = f"kernels-{level or installed.levels()[-1]}-{sources or digest(read_sources())}.so"
        (installed.FOLDER / name).write_bytes(data)

    return bring


@pytest.fixture
def small(cache: Path, tmp_path: Path, needs_a_compiler: None) -> bytes:
    """Return the bytes of kernels that are one small function."""
    return compiler.try_folders(lambda folder: compiler.compile(compiler.compiler_command(), folder), None)


@pytest.fixture
def without_a_compiler(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.mark.usefixtures("without_a_compiler")
def test_kernels_that_a_wheel_brought_need_no_compiler_and_no_cache(bring, small, has_kernels, cache, caplog):
    bring(small)
    with caplog.at_level(logging.INFO):
        assert has_kernels()
    assert caplog.messages == []
    assert not cache.exists()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda bring, small, patch: bring(small, sources="0123456789abcdef"),
            "is for these sources and this processor",
        ),
        (lambda bring, small, patch: bring(small, level="of-tomorrow"), "is for these sources and this processor"),
        (lambda bring, small, patch: bring(b"nonsense"), "kernels-"),
        (
            lambda bring, small, patch: (bring(small), patch.setattr(compiler, "ABI_VERSION", 1000)),
            "must have ABI 1000",
        ),
    ],
    ids=["of other sources", "for other processors", "nonsense", "of another ABI"],
)
def test_kernels_that_do_not_fit_are_left_and_the_log_says_so(spoil, reason, bring, small, monkeypatch, caplog):
    spoil(bring, small, monkeypatch)
    assert compiler.load_installed() is None
    (line,) = caplog.messages
    assert line.startswith("The kernels that came with ce_torch are not used")
    assert reason in line


def test_where_kernels_do_not_fit_others_are_compiled(bring, small, has_kernels, cache):
    bring(small, sources="0123456789abcdef")
    assert has_kernels()
    assert [path.name.split("-")[0] for path in cache.iterdir()] == ["kernels"]


@pytest.mark.parametrize(
    ("machine", "has", "best"),
    [
        ("x86_64", V3, "x86-64-v3"),
        ("AMD64", V3 | {"avx512_f": True, "avx512_bf16": True}, "x86-64-v3"),
        ("x86_64", EVERYTHING, "x86-64-v4-bf16"),
        ("x86_64", {}, None),
        ("aarch64", {}, "any"),
        ("arm64", {}, "any"),
    ],
)
def test_the_processor_says_which_level_is_the_best(machine, has, best, monkeypatch):
    monkeypatch.setattr(installed.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert next(iter(installed.levels()), None) == best


def test_the_best_of_the_levels_that_a_wheel_brought_is_taken(bring, monkeypatch):
    monkeypatch.setattr(installed, "levels", lambda: ["best", "good", "fair"])
    bring(b"", level="fair")
    bring(b"", level="good")
    assert "-good-" in installed.kernels().name


def test_what_is_in_the_cache_is_not_looked_at_where_a_wheel_brought_kernels(bring, small, has_kernels, monkeypatch):
    monkeypatch.setattr(store, "read", lambda path: pytest.fail("it was read"))
    bring(small)
    assert has_kernels()
