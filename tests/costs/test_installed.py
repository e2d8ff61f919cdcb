"""What a wheel brought compiled is used without a compiler, where it fits: kernels, and the node of autograd."""

import logging
from pathlib import Path

import pytest
import torch

from ce_torch import build
from ce_torch.costs.kernels import compiler, installed, node, store
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


def test_the_command_that_builds_ahead_takes_what_a_wheel_brought(bring, small, has_kernels, monkeypatch):
    bring(small)
    assert has_kernels()
    assert build.build_kernels() == f"{installed.kernels()}, which came with ce_torch"


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


@pytest.fixture
def bring_node(cache: Path):
    """Return a function that writes a file as a node that a wheel brings."""

    def bring_node(name=None):
        installed.FOLDER.mkdir(exist_ok=True)
        (installed.FOLDER / f"{name or installed.node_name()}.so").write_bytes(b"nonsense")

    return bring_node


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("2.14.1+cu130", "node-torch2.14-"),
        ("2.14.0", "node-torch2.14-"),
        ("2.14.0+cpu", "node-torch2.14-"),
        ("2.15.0a0+git3f8", "node-torch2.15.0a0+git3f8-"),
        ("2.15.0.dev20261101+cpu", "node-torch2.15.0.dev20261101+cpu-"),
    ],
)
def test_the_releases_of_a_minor_version_of_pytorch_share_a_node(version, name, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert installed.node_name().startswith(name)


def test_a_node_is_for_these_sources(bring_node, monkeypatch):
    bring_node()
    assert installed.node() is not None
    monkeypatch.setattr(installed, "NODE_FILES", ("layout.h",))
    assert installed.node() is None


@pytest.mark.parametrize(
    ("python", "has_no_gil", "fits"),
    [((3, 11, 0), 0, True), ((3, 14, 5), None, True), ((3, 14, 5), 1, False), ((3, 15, 0), 0, False)],
)
def test_a_node_is_for_the_pythons_whose_objects_it_knows(python, has_no_gil, fits, bring_node, monkeypatch):
    bring_node()
    monkeypatch.setattr(installed.sys, "version_info", python)
    monkeypatch.setattr(installed.sysconfig, "get_config_var", lambda name: has_no_gil)
    assert (installed.node() is not None) == fits


def test_a_node_that_can_not_be_loaded_is_left_and_the_log_says_so(bring_node, has_kernels, monkeypatch, caplog):
    monkeypatch.setattr(node, "has_kernels", lambda: True)
    bring_node()
    assert node.load_installed() is None
    (line,) = caplog.messages
    assert line.startswith("The node that came with ce_torch is not used")


def test_where_a_wheel_brought_nodes_for_others_the_log_says_how_to_make_one(bring_node, caplog):
    caplog.set_level(logging.INFO, "ce_torch")
    bring_node("node-torch1.0-0123456789abcdef")
    assert node.library.__wrapped__() is None
    (line,) = caplog.messages
    assert "python -m ce_torch.build" in line


def test_kernels_that_are_off_leave_what_a_wheel_brought(bring, bring_node, small, has_kernels, monkeypatch):
    bring(small)
    bring_node()
    for module in (compiler, node):
        monkeypatch.setattr(module, "kernels_are_on", lambda: False)
    assert not has_kernels()
    assert node.library.__wrapped__() is None
