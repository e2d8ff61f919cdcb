"""The costs as the tests see them: each with the textbook's formula, which autograd differentiates."""

import ctypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, settings
from switches import can_have_kernels, has_compiler, turn_kernels_off, turn_node_off
from torch import Tensor

from ce_torch import LinearLogLikelihoodCost
from ce_torch.costs import _in_graph
from ce_torch.costs._module import Cost
from ce_torch.costs._precision import to_compute_dtype
from ce_torch.costs._registry import COSTS
from ce_torch.costs.kernels import blocks, compiler, installed, layer_numbers, node
from ce_torch.costs.linear import blocks as layer_blocks
from ce_torch.costs.linear import cpu_tiles, small
from ce_torch.functional import linear_log_likelihood

# How long an example takes says how busy the machine is.
settings.register_profile("without clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("without clock")


def pytest_sessionstart() -> None:
    # Without a node the same promises hold, so their tests would say nothing of it.
    if "CE_TORCH_TESTS_NEED_NODE" in os.environ:
        assert node.library() is not None, "no node is kept; see the log of ce_torch"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if metafunc.definition.get_closest_marker("every_backend") and not own:
        metafunc.parametrize("backend", ["formulas", "blocks", "kernels"], indirect=True)


@pytest.fixture(autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute costs as users do; in a test marked `every_backend` by each backend, with blocks of 8 elements."""
    backend = getattr(request, "param", "auto")
    if backend == "kernels":
        monkeypatch.setattr(Case, "dtype", torch.float32)
    elif backend != "auto":
        turn_kernels_off(monkeypatch)
        elements = {"blocks": 8, "large blocks": blocks.ELEMENTS, "formulas": 1 << 40}
        monkeypatch.setattr(blocks, "ELEMENTS", elements[backend])
    if backend == "blocks":
        monkeypatch.setattr(layer_blocks, "FEWEST_ROWS", 1)
        monkeypatch.setattr(layer_blocks, "FEWEST_CLASSES", 1)
        monkeypatch.setattr(layer_blocks, "FEWEST_ELEMENTS", 8)


@pytest.fixture(autouse=True)
def large_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of any size pass for large ones."""
    monkeypatch.setattr(small, "MOST_ELEMENTS", 0)


CLASS_WEIGHTS = {"weight": torch.tensor([0.5, 1.0, 2.0])}


@dataclass
class Case:
    """A cost, its options, and the formula of the cost of each example as the textbook writes it."""

    name: str
    function: Callable[..., Tensor]
    module: Callable[..., torch.nn.Module]
    textbook: Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    indices: bool = False
    dtype: ClassVar[torch.dtype] = torch.float64  # of examples; the kernels take float32

    def options_in(self, dtype: torch.dtype) -> dict[str, Any]:
        is_weight = {k: isinstance(v, Tensor) and v.is_floating_point() for k, v in self.options.items()}
        return {k: v.to(dtype) if is_weight[k] else v for k, v in self.options.items()}

    def __call__(self, z: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        return self.function(z, y, reduction=reduction, **self.options_in(z.dtype))

    def by_textbook(self, z: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        C = self.textbook(z, y, **self.options_in(z.dtype))
        return {"mean": C.mean, "sum": C.sum, "none": lambda: C}[reduction]()

    def cost(self, **more: Any) -> torch.nn.Module:
        return self.module(**self.options, **more)

    def examples(self, *shape: int, dtype: torch.dtype | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return weighted inputs, and class indices or desired outputs, of a shape whose last size is 3."""
        dtype = dtype or self.dtype
        generator = torch.Generator().manual_seed(seed)
        z = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.indices:
            y = torch.randint(0, shape[-1], shape[:-1], generator=generator)
        else:
            y = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
        return z.to(dtype), y


def textbook_quadratic(z: Tensor, y: Tensor, activation: str = "sigmoid", mask: Tensor | float = 1.0) -> Tensor:
    a = 1 / (1 + torch.exp(-z)) if activation == "sigmoid" else z
    return (mask * (a - y) ** 2 / 2).sum(-1)


def textbook_cross_entropy(
    z: Tensor, y: Tensor, weight: Tensor | float = 1.0, pos_weight: Tensor | float = 1.0, mask: Tensor | float = 1.0
) -> Tensor:
    a = 1 / (1 + torch.exp(-z))
    return -(mask * weight * (pos_weight * y * a.log() + (1 - y) * (1 - a).log())).sum(-1)


def textbook_log_likelihood(
    z: Tensor,
    y: Tensor,
    temperature: float = 1.0,
    weight: Tensor | float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    a = torch.exp(z / temperature) / torch.exp(z / temperature).sum(-1, keepdim=True)
    if not y.is_floating_point():
        y = torch.nn.functional.one_hot(y, z.shape[-1])
    y = (1 - label_smoothing) * y + label_smoothing / z.shape[-1]
    return -(weight * y * a.log()).sum(-1)


def identity_layer(z: Tensor, y: Tensor, *, weight: Tensor | None = None, **options: Any) -> Tensor:
    """Return the cost of an output layer whose weighted inputs are its inputs."""
    return linear_log_likelihood(
        z, torch.eye(z.shape[-1], dtype=z.dtype, device=z.device), y, class_weight=weight, **options
    )


def identity_module(*, weight: Tensor | None = None, **options: Any) -> LinearLogLikelihoodCost:
    cost = LinearLogLikelihoodCost(3, 3, bias=False, class_weight=weight, **options)
    torch.nn.init.eye_(cost.layer.weight.requires_grad_(False))
    return cost


# The textbook's formulas. For a cost that is not here, autograd differentiates the cost's own formula.
TEXTBOOKS = {
    "quadratic": textbook_quadratic,
    "cross_entropy": textbook_cross_entropy,
    "log_likelihood": textbook_log_likelihood,
}


def formula(cost: type[Cost]) -> Callable[..., Tensor]:
    def formula(z: Tensor, y: Tensor, **options: Any) -> Tensor:
        options = {**cost.defaults, **options}
        for name in ("reduction", "out_dtype"):
            options.pop(name)
        function, inputs = cost.prepare(z, y, **options)
        return function.spec.cost(*to_compute_dtype(inputs))

    return formula


def registered_cases() -> Iterator[Case]:
    """Yield the examples of every cost with desired outputs, and those of a softmax layer with classes too."""
    specs = [(name, cost, function.spec) for name, cost in COSTS.items() for function in cost.cost_functions]
    for name, cost, spec in specs:
        textbook = TEXTBOOKS.get(name) or formula(cost)
        for number, options in enumerate(spec.examples):
            label = f"{spec.name}-{number}" if number else spec.name
            yield Case(label, cost.function, cost, textbook, options)
            if spec.family == "softmax":
                options = {key: value for key, value in options.items() if key != "weight"}
                yield Case(f"{label}-class", cost.function, cost, textbook, options, indices=True)


WHOLE_CASES = [*registered_cases()]
CASES = [
    *WHOLE_CASES,
    Case("linear", identity_layer, identity_module, textbook_log_likelihood, CLASS_WEIGHTS),
    Case("linear-class", identity_layer, identity_module, textbook_log_likelihood, {"temperature": 0.5}, indices=True),
    Case(
        "linear-class-options",
        identity_layer,
        identity_module,
        textbook_log_likelihood,
        {"label_smoothing": 0.1, "temperature": 2.0},
        indices=True,
    ),
]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a layer's tiles be of 32 examples and 300 classes."""
    monkeypatch.setattr(cpu_tiles, "tile_classes", lambda: 300)
    monkeypatch.setattr(cpu_tiles, "TILE_EXAMPLES", 32)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the kernels for layers that run."""
    names, kernel = [], layer_numbers.kernel
    monkeypatch.setattr(layer_numbers, "kernel", lambda name, types: names.append(name) or kernel(name, types))
    return names


@pytest.fixture
def calls_operators(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the compiler call operators, however small z is."""
    monkeypatch.setattr(_in_graph, "SMALL", 0)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(params=["formulas", "operators"])
def formulas_and_operators(request: pytest.FixtureRequest) -> None:
    """Let the compiler see first the one, then the other."""
    torch.compiler.reset()
    if request.param == "operators":
        request.getfixturevalue("calls_operators")


@pytest.fixture
def needs_a_compiler() -> None:
    if not has_compiler():
        pytest.skip("there is no C++ compiler")


@pytest.fixture
def needs_kernels() -> None:
    if not can_have_kernels():
        pytest.skip("no wheel brought kernels, and there is no C++ compiler")


SMALL = f'extern "C" int ce_torch_abi_version() {{ return {compiler.ABI_VERSION}; }}'


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of a cache that keeps nothing yet. The user's own kernels come back after the test.

    The kernels of these tests are one small function, which compiles fast. No wheel has brought any.
    """
    monkeypatch.setattr(installed, "FOLDER", tmp_path / "built")
    monkeypatch.setattr(compiler, "read_sources", lambda: {"small.cpp": SMALL})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "library", compiler.cache(compiler.library.__wrapped__))
    turn_node_off(monkeypatch)
    return tmp_path / "ce_torch"


@pytest.fixture
def has_kernels(cache: Path) -> Callable[[], bool]:
    """Return a function that returns True if a run that starts now has kernels."""

    def has_kernels() -> bool:
        compiler.library.cache_clear()
        return isinstance(compiler.library(), ctypes.CDLL)

    return has_kernels


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the list of the commands that compile."""
    commands: list[list[str]] = []
    run = compiler.run
    monkeypatch.setattr(compiler, "run", lambda command, folder: commands.append(command) or run(command, folder))
    return commands


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(params=WHOLE_CASES, ids=lambda case: case.name)
def whole_case(request: pytest.FixtureRequest) -> Case:
    """Return a case of a cost without its layer."""
    return request.param


# One cost of each kind, for tests that take long.
FEW_CASES = [case for case in CASES if case.name in ("quadratic", "log_likelihood-class", "linear-class")]


@pytest.fixture(params=FEW_CASES, ids=lambda case: case.name)
def typical_case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(params=[case for case in FEW_CASES if case in WHOLE_CASES], ids=lambda case: case.name)
def typical_whole_case(request: pytest.FixtureRequest) -> Case:
    return request.param


FIRST_CASES = [*{case.function: case for case in reversed(CASES)}.values()]


@pytest.fixture(params=FIRST_CASES, ids=lambda case: case.name)
def first_case(request: pytest.FixtureRequest) -> Case:
    """Return the first case of each cost."""
    return request.param


@pytest.fixture
def case_dtype(backend: None) -> torch.dtype:
    """Return the dtype of examples that the backend supports."""
    return Case.dtype
