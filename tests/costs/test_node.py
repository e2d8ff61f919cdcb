"""A node of autograd in C++, where `python -m ce_torch.build` has made it, computes plain calls, and keeps promises.

That takes many seconds, so most of these tests are slow.
"""

import fcntl
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import weakref
from functools import cache as cached
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, grad_and_value, jvp, vjp, vmap
from torch.nn import functional as F

from ce_torch import build, use_backend
from ce_torch.costs._function import CostFunction
from ce_torch.costs._registry import COSTS
from ce_torch.costs.kernels import compiler, store
from ce_torch.costs.kernels import node as kept_node
from ce_torch.functional import log_likelihood, quadratic

FUNCTIONS = [function for cost in COSTS.values() for function in cost.cost_functions]
PROMISES = (
    *("arguments", "backend", "changes", "cpu", "ecosystem", "fuzz"),
    *("kernels", "operators", "options", "promises", "values"),
)

pytestmark = pytest.mark.usefixtures("needs_a_compiler")


@pytest.fixture(autouse=True)
def backend() -> None:
    """Run the kernels, as users do."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of caches that keeps the kernels and the node. The first of the tests' processes builds them."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    caches = folder / "caches"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        environment = os.environ | {"XDG_CACHE_HOME": str(caches)}
        subprocess.run([sys.executable, "-m", "ce_torch.build"], env=environment, check=True, timeout=300)
    return caches


@pytest.fixture
def node(built: Path, monkeypatch: pytest.MonkeyPatch):
    """Let the costs of this process use the node."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(built))
    monkeypatch.setattr(kept_node, "library", cached(kept_node.library.__wrapped__))
    for function in FUNCTIONS:
        monkeypatch.delitem(vars(function), "node", raising=False)
    yield
    for function in FUNCTIONS:
        vars(function).pop("node", None)


def example(*shape, **options):
    z = torch.linspace(-2, 2, torch.Size(shape).numel()).view(shape)
    return z.requires_grad_(), torch.arange(shape[0]) % shape[-1]


def is_node(C):
    return type(C.grad_fn).__name__ == "CppFunction"


@pytest.mark.slow
@pytest.mark.parametrize("promises", PROMISES)
def test_all_promises_hold_with_the_node(promises, built, root):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"tests/costs/test_{promises}.py"]
    environment = os.environ | {"XDG_CACHE_HOME": str(built), "CE_TORCH_TESTS_NEED_NODE": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-5000:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm, which comes with compilers")
def test_of_python_the_node_uses_only_what_is_the_same_in_every_version(built, tmp_path):
    (kept,) = (built / "ce_torch").glob("node-*")
    library = tmp_path / "node.so"
    library.write_bytes(store.read(kept))
    listed = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    names = re.findall(r"U (_?Py\w+)", listed.stdout)
    assert "PyCapsule_New" in names
    # The states of threads and interpreters, and what has no public name.
    assert not [name for name in names if re.match(r"PyThread|PyInterpreter|_Py(?!_Dealloc$|_NoneStruct$)", name)]


@pytest.mark.slow
@pytest.mark.usefixtures("node")
def test_a_plain_call_is_a_node_with_the_name_of_its_cost(whole_case):
    # The mean of what a mask lets count is a division beyond the node.
    (z, y), reduction = whole_case.examples(4, 3), "sum" if "mask" in whole_case.options else "mean"
    C = whole_case(z.requires_grad_(), y, reduction)
    assert is_node(C)
    with use_backend("kernels"):
        by_python = whole_case(z, y, reduction)
    assert not is_node(by_python)
    assert C.grad_fn.name() == by_python.grad_fn.name()


@pytest.mark.slow
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    "change",
    [
        lambda z, y: log_likelihood(z, torch.full_like(z, 0.5).requires_grad_()),
        lambda z, y: log_likelihood(z, y, weight=torch.ones(3).requires_grad_()),
        lambda z, y: log_likelihood(torch._neg_view(z), y),
        lambda z, y: log_likelihood(z[:0], y[:0]),
    ],
    ids=["y requires grad", "a weight requires grad", "a view that negates", "empty"],
)
def test_a_call_that_is_not_plain_is_left_to_python(change):
    C = change(*example(4, 3))
    assert C.requires_grad
    assert not is_node(C)


@pytest.mark.slow
@pytest.mark.usefixtures("node")
def test_where_no_derivative_is_asked_for_there_is_no_node():
    z, y = example(4, 3)
    with torch.no_grad():
        assert log_likelihood(z, y).grad_fn is None
    assert log_likelihood(z.detach(), y).grad_fn is None


@pytest.mark.slow
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    "spoil",
    [lambda z, C: C.backward(), lambda z, C: z.detach().zero_()],
    ids=["a second backward pass", "a change of z"],
)
def test_errors_of_a_backward_pass_are_those_of_pytorchs_own_losses(spoil):
    errors = []
    for cost in (F.mse_loss, partial(quadratic, activation="linear")):
        z, _ = example(4, 3)
        C = cost(z, torch.ones(4, 3))
        spoil(z, C)
        with pytest.raises(RuntimeError) as error:
            C.backward()
        errors.append(str(error.value))
    assert is_node(C)
    theirs, ours = errors
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.usefixtures("node")
def test_the_gradient_is_a_node_too_where_it_may_be_differentiated(whole_case):
    (z, y), reduction = whole_case.examples(4, 3), "sum" if "mask" in whole_case.options else "mean"
    v, found = torch.linspace(-1, 1, 12).view(4, 3), []
    for backend in "auto", "kernels":
        g = torch.tensor(2.0, requires_grad=True)
        with use_backend(backend):
            C = whole_case(z.requires_grad_(), y, reduction)
            (delta,) = torch.autograd.grad(C, z, g, create_graph=True)
            found.append((delta, *torch.autograd.grad(delta, (z, g), v)))
    (delta, *of_node), (by_python, *of_python) = found
    assert is_node(delta)
    assert not is_node(by_python)
    assert delta.grad_fn.name() == by_python.grad_fn.name()
    torch.testing.assert_close(of_node, of_python)


@pytest.fixture
def only_by_node(node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but the node compute a cost."""
    monkeypatch.setattr(CostFunction, "choose", Mock(side_effect=AssertionError("Python computes it")))


def along(cost, z, y, v):
    with forward_ad.dual_level():
        return tuple(forward_ad.unpack_dual(cost(forward_ad.make_dual(z, v), y)))


def alone(cost):
    """Return the cost of one example as that of a batch of one."""
    return lambda z, y: cost(z[None], y[None])


# Below these transforms only numbers are asked for.
TRANSFORMED = {
    "forward_ad": along,
    "jvp": lambda cost, z, y, v: jvp(lambda z: cost(z, y), (z,), (v,)),
    "grad": lambda cost, z, y, v: grad(cost)(z, y),
    "vmap": lambda cost, z, y, v: vmap(alone(cost))(z, y),
    "vmap of grad": lambda cost, z, y, v: vmap(grad(alone(cost)))(z, y),
    "vmap of jvp": lambda cost, z, y, v: vmap(lambda z, y, v: jvp(lambda z: alone(cost)(z, y), (z,), (v,)))(z, y, v),
    "vjp": lambda cost, z, y, v: vjp(lambda z: cost(z, y), z)[1](torch.tensor(3.0)),
    "vmap of vjp": lambda cost, z, y, v: vmap(lambda z, y: vjp(lambda z: alone(cost)(z, y), z)[1](z.sum()))(z, y),
}


def outside(transformed):
    """Return a derivative by a z or a v that is tracked outside of what is transformed."""

    def differentiated(cost, z, y, v):
        z, v = z.clone().requires_grad_(), v.clone().requires_grad_()
        result = transformed(cost, z, y, v)
        result = result[-1] if isinstance(result, tuple) else result
        return torch.autograd.grad(result.sum(), (z, v), allow_unused=True)

    return differentiated


# Of these more is asked for.
BEYOND = {
    "jvp of jvp": lambda cost, z, y, v: jvp(lambda z: jvp(lambda z: cost(z, y), (z,), (v,))[1], (z,), (v,)),
    "jvp of grad": lambda cost, z, y, v: jvp(lambda z: grad(cost)(z, y), (z,), (v,)),
    "grad of jvp": lambda cost, z, y, v: grad(lambda z: jvp(lambda z: cost(z, y), (z,), (v,))[1])(z),
    "grad of vmap": lambda cost, z, y, v: grad(lambda z: vmap(alone(cost))(z, y).square().sum())(z),
    "jvp by z and y": lambda cost, z, y, v: jvp(cost, (z, y), (v, v.cos())),
    "forward_ad by z and y": lambda cost, z, y, v: along(lambda z, _: cost(z, forward_ad.make_dual(y, v)), z, y, v),
    "grad by y": lambda cost, z, y, v: grad(cost, argnums=1)(z, y),
    "vmap over z": lambda cost, z, y, v: vmap(grad(lambda z: alone(cost)(z, y[0])))(z),
    "vmap over y": lambda cost, z, y, v: vmap(lambda y: alone(cost)(z[0], y))(y),
    "vmap of means": lambda cost, z, y, v: vmap(grad(cost))(z.view(2, 2, 3), y.view(2, 2, 3)),
    "vmap along another dimension": lambda cost, z, y, v: vmap(cost, in_dims=1)(z.t(), y.t()),
    "a gradient's gradient when its transform has ended": lambda cost, z, y, v: vjp(
        lambda z: torch.autograd.grad(cost(z, y), z, create_graph=True)[0], z
    )[1](v),
    "no_grad in grad": lambda cost, z, y, v: grad(lambda z: z.sum() * torch.no_grad()(cost)(z, y))(z),
    "a gradient in vmap of grad": lambda cost, z, y, v: vmap(
        grad(lambda z, y: torch.autograd.grad(alone(cost)(z, y), z, create_graph=True)[0].square().sum())
    )(z, y),
    "forward_ad over vmap of grad": lambda cost, z, y, v: along(vmap(grad(alone(cost))), z, y, v),
    **{f"a gradient of {name}": outside(transformed) for name, transformed in TRANSFORMED.items()},
}


@pytest.mark.slow
@pytest.mark.usefixtures("only_by_node")
@pytest.mark.parametrize("transformed", TRANSFORMED.values(), ids=TRANSFORMED)
def test_the_node_computes_what_one_transform_or_one_over_vmap_asks_for(transformed, whole_case, monkeypatch):
    z, y = whole_case.examples(4, 3)
    v, reduction = torch.linspace(-1, 1, 12).view(4, 3), "sum" if "mask" in whole_case.options else "mean"
    by_node = transformed(partial(whole_case, reduction=reduction), z, y, v)
    monkeypatch.undo()
    with use_backend("kernels"):
        torch.testing.assert_close(by_node, transformed(partial(whole_case, reduction=reduction), z, y, v))


@pytest.mark.slow
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("asked", BEYOND.values(), ids=BEYOND)
def test_what_more_is_asked_for_under_transforms_is_as_without_a_node(asked):
    z, y, v = torch.linspace(-2, 2, 12).view(4, 3), torch.linspace(0, 1, 12).view(4, 3), torch.ones(4, 3).cumsum(0)
    found = []
    for backend in "auto", "formulas":
        with use_backend(backend):
            found.append(asked(quadratic, z, y, v))
    torch.testing.assert_close(*found)


@pytest.mark.slow
@pytest.mark.usefixtures("only_by_node")
@pytest.mark.parametrize("K", [3, 1000])
@pytest.mark.parametrize("label_smoothing", [0, 0.5, 1])
def test_each_example_of_a_batch_has_a_mean_of_its_own(K, label_smoothing):
    (z, y), weight = example(6, K), torch.arange(K) % 3 / 2
    y[4] = -100  # y[0] and y[3] have the weight 0
    options = {"weight": weight, "label_smoothing": label_smoothing}
    of_each = grad_and_value(lambda z, y: log_likelihood(z, y, **options))
    delta, C = vmap(of_each)(z.detach(), y)
    for i in range(6):
        theirs = F.cross_entropy(z[i], y[i], **options)
        counts = y[i] != -100 and weight[y[i]] != 0
        torch.testing.assert_close(C[i], theirs.detach() if counts else torch.tensor(torch.nan), equal_nan=True)
        expected = torch.autograd.grad(theirs, z)[0][i] if counts else torch.zeros(K)
        torch.testing.assert_close(delta[i], expected)


@pytest.mark.slow
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("cost", [log_likelihood, partial(quadratic, activation="linear")])
def test_the_derivative_by_a_gradient_of_0_is_finite(cost):
    z = torch.tensor([[1e38, 0.0], [0.5, 0.0]], requires_grad=True)
    y, g = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0.0, 1.0], requires_grad=True)
    C = cost(z, y, reduction="none")
    (delta,) = torch.autograd.grad(C, z, g, create_graph=True)
    assert is_node(delta)
    (by_grad,) = torch.autograd.grad(delta, g, torch.full_like(z, 1e38))
    assert by_grad[0] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("node")
def test_a_change_between_two_backward_passes_that_autograd_does_not_see_is_an_error():
    z, y = example(4, 3)
    (delta,) = torch.autograd.grad(log_likelihood(z, y), z, create_graph=True)
    y.numpy()[:] = 1 << 40
    with pytest.raises(RuntimeError, match="was changed after the forward pass"):
        torch.autograd.grad(delta, z, torch.ones(4, 3))


@pytest.mark.slow
@pytest.mark.usefixtures("node")
def test_a_derivative_beyond_the_second_uses_the_statistics_of_the_forward_pass(monkeypatch):
    z, y = example(400, 300)
    (function,) = COSTS["log_likelihood"].cost_functions
    gradients, given = function.delta_of.gradients, []

    def recorded(arguments, *others):
        given.append(arguments[1])
        return gradients(arguments, *others)

    monkeypatch.setattr(function.delta_of, "gradients", recorded)
    (delta,) = torch.autograd.grad(log_likelihood(z, y), z, create_graph=True)
    assert is_node(delta)
    (second,) = torch.autograd.grad(delta, z, delta.detach(), create_graph=True)
    (statistics,) = given
    assert statistics.shape == (2 + 2 * 400,)
    (theirs,) = torch.autograd.grad(F.cross_entropy(z, y), z, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(theirs, z, theirs.detach())[0])


# A kernel that reads beyond a tensor can end the process.
SPOILED = """
import sys, torch
from ce_torch import use_backend
from ce_torch.functional import log_likelihood, quadratic
z, y = torch.randn(400, 1000, requires_grad=True), torch.arange(400)
with use_backend(sys.argv[1]):
    {code}
assert (type(C.grad_fn).__name__ == "CppFunction") == (sys.argv[1] == "auto")
try:
    C.backward()
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "kernels"])
@pytest.mark.parametrize(
    "code",
    [
        "shared = y.numpy(); C = log_likelihood(z, y); shared[:] = 1 << 40",
        "z = z.detach()[:4].clone().requires_grad_(); C = log_likelihood(z, y[:4]); z.data = torch.zeros(4000, 1000)",
        "z = torch.ones(2, 400, requires_grad=True); C = log_likelihood(z, y[:2]); z.data = torch.zeros(9000, 400)",
        "C = log_likelihood(z, y); z.untyped_storage().resize_(0)",
        "C = log_likelihood(z, y); z.data = z.data.double()",
        "y = torch.zeros(400, 1000); C = quadratic(z, y, activation='linear'); y.data = torch.zeros(2, 3)",
        "y = torch.zeros(400, 1000); C = quadratic(z, y); y.data = torch.full((400,), -1)",
        "w = torch.ones(1000); C = log_likelihood(z, y, weight=w); w.data = torch.ones(3)",
    ],
)
def test_a_change_that_autograd_does_not_see_is_an_error_of_the_backward_pass(code, backend, built, root):
    command = [sys.executable, "-c", SPOILED.format(code=code), backend]
    environment = os.environ | {"XDG_CACHE_HOME": str(built)}
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "was changed after the forward pass" in run.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("grad_output", [torch.ones(2), torch.ones(4, 1), torch.ones(4, dtype=torch.int64)])
def test_a_node_that_is_called_by_hand_takes_only_a_gradient_of_c(grad_output):
    C = log_likelihood(*example(4, 3), reduction="none")
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"grad_output must have the shape of C, \[4\], and a floating"),
    ):
        C.grad_fn(grad_output)


@pytest.mark.slow
@pytest.mark.usefixtures("node")
def test_an_error_in_a_part_that_python_computes_comes_out(monkeypatch):
    z, y = example(4, 3)
    (function,) = COSTS["log_likelihood"].cost_functions
    monkeypatch.setattr(function.delta_of, "gradients", Mock(side_effect=LookupError("by design")))
    (delta,) = torch.autograd.grad(log_likelihood(z, y), z, create_graph=True)
    assert is_node(delta)
    with pytest.raises(LookupError, match="by design"):
        torch.autograd.grad(delta, z, torch.ones(4, 3), create_graph=True)


@pytest.mark.slow
@pytest.mark.usefixtures("node")
@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning", "ignore:Error detected in Log:UserWarning")
def test_anomaly_mode_names_the_cost():
    z, y = example(4, 3)
    z.data[0, 0] = torch.nan
    with torch.autograd.detect_anomaly():
        C = log_likelihood(z, y)
        assert is_node(C)
        with pytest.raises(RuntimeError, match="'LogLikelihoodBackward' returned nan values"):
            C.backward()


@pytest.mark.slow
@pytest.mark.usefixtures("node")
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="only Linux says how much memory is in use")
@pytest.mark.parametrize("create_graph", [False, True])
def test_nothing_of_a_call_stays_in_memory(create_graph):
    def once():
        z, y = example(1000, 3)
        C = log_likelihood(z, y)
        torch.autograd.grad(C, z, create_graph=create_graph)
        return weakref.ref(z), weakref.ref(y), weakref.ref(C)

    def memory():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert [reference() for reference in once()] == [None] * 3
    for _ in range(100):
        once()
    before = memory()
    for _ in range(5000):  # what a call allocates is 44 kB
        once()
    assert memory() - before < 20_000


def test_without_a_node_the_first_cost_does_not_look_for_compilers_of_extensions(tmp_path, root):
    code = (
        "import sys, torch; from ce_torch.costs.log_likelihood import LOG_LIKELIHOOD, log_likelihood;"
        "log_likelihood(torch.zeros(2, 3), torch.tensor([0, 1])); assert LOG_LIKELIHOOD.node is None;"
        "assert 'torch.utils.cpp_extension' not in sys.modules"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "CE_TORCH_KERNELS": "0"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, timeout=300).returncode == 0


@pytest.mark.usefixtures("cache")
def test_where_no_node_is_kept_the_search_for_one_compiles_nothing(compilations):
    assert kept_node.library.__wrapped__() is None
    assert compilations == []


@pytest.mark.usefixtures("cache")
def test_a_node_that_can_not_be_loaded_is_named_in_the_log(monkeypatch, caplog):
    store.write(store.folder() / kept_node.file_name(compiler.compiler_command()), b"nonsense")
    assert kept_node.library.__wrapped__() is None
    assert "run python -m ce_torch.build again" in caplog.text


def test_a_node_that_is_kept_for_another_machine_is_named_in_the_log(cache, caplog):
    caplog.set_level("INFO", "ce_torch")
    assert kept_node.library.__wrapped__() is None
    assert caplog.text == ""
    store.write(cache / "node-of-another-machine", b"")
    assert kept_node.library.__wrapped__() is None
    assert "another PyTorch, Python, compiler, processor or ce_torch" in caplog.text


@pytest.mark.usefixtures("cache")
def test_what_was_built_before_is_not_compiled_again(compilations, monkeypatch, capsys):
    monkeypatch.setattr(kept_node, "compile", lambda command, folder: b"nothing")
    monkeypatch.setattr(kept_node, "load", lambda library, folder: None)
    assert build.main([]) == 0
    first = capsys.readouterr().out.splitlines()
    monkeypatch.delattr(kept_node, "compile")
    assert build.main([]) == 0
    second = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in first] == [line.split(",")[0] for line in second]
    assert second[1].endswith("compiled before")


def spoil_kept_kernels(folder: Path) -> None:
    """Keep the kernels where others can write."""
    build.build_kernels()
    folder.chmod(0o777)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda patch, folder: patch.setenv("CXX", "no-such-compiler"), "there is no C++ compiler no-such-compiler"),
        (
            lambda patch, folder: patch.setattr(sysconfig, "get_path", lambda name: str(folder)),
            "install Python's headers",
        ),
        (lambda patch, folder: patch.setattr(kept_node, "FLAGS", ("-std=c++3000",)), "the compiler failed:"),
        (
            lambda patch, folder: (
                patch.delenv("XDG_CACHE_HOME"),
                patch.setattr(Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError)),
            ),
            "this user has no home to keep files in",
        ),
        (
            lambda patch, folder: patch.setenv("XDG_CACHE_HOME", "rel"),
            "XDG_CACHE_HOME must be an absolute path, got 'rel'",
        ),
        (lambda patch, folder: spoil_kept_kernels(folder / "ce_torch"), "others can write to it"),
    ],
    ids=["no compiler", "no headers", "a compiler that fails", "no home", "a relative folder", "a folder of others"],
)
def test_what_can_not_be_built_is_said_in_one_sentence(spoil, said, monkeypatch, tmp_path, capsys):
    spoil(monkeypatch, tmp_path)
    assert build.main([]) == 1
    error = capsys.readouterr().err
    assert re.search(f"^error: .*{re.escape(said)}", error, re.MULTILINE)


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--no-such-option", 2)])
def test_the_command_says_what_it_does_and_takes_no_arguments(argument, status, monkeypatch, capsys):
    monkeypatch.delattr(build, "build_kernels")
    with pytest.raises(SystemExit) as end:
        build.main([argument])
    said = capsys.readouterr()
    assert end.value.code == status
    assert "usage: python -m ce_torch.build" in said.out + said.err
