"""Fixtures for the tests of the program: processes, checkpoints, and files in MNIST's format."""

import gzip
import shutil
import struct
import warnings
from pathlib import Path

import pytest
import torch

from ce_torch.training import checkpoint, mnist

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
TIMEOUT = 600  # seconds for a process, on a busy machine


@pytest.fixture(scope="session")
def slice_file(slice_of_mnist, tmp_path_factory):
    path = tmp_path_factory.mktemp("slice") / "mnist.pt"
    torch.save([tuple(part) for part in slice_of_mnist], path)
    return path


@pytest.fixture(scope="module")
def start_on_slice(start, slice_file):
    """Start train.py on a slice of MNIST, in a new process or in two that torchrun starts."""
    program = Path(__file__).with_name("on_a_slice.py")

    def start_on_slice(*flags, two_processes=False, **options):
        return start(*(TORCHRUN if two_processes else ()), program, slice_file, *flags, **options)

    return start_on_slice


@pytest.fixture(scope="session")
def finish():
    """Wait until a process ends without an error, and return the lines that it has printed."""

    def finish(process):
        out, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, err
        return out.splitlines()

    return finish


@pytest.fixture(scope="session")
def epochs_done():
    """Return the number of epochs in the checkpoint at a path."""

    def epochs_done(path):
        _, training = checkpoint.load(path)
        return len(training["history"])

    return epochs_done


@pytest.fixture(scope="session")
def weights():
    """Return the weights and biases in the checkpoint at a path, by name."""

    def weights(path):
        _, training = checkpoint.load(path)
        return training["network"]

    return weights


@pytest.fixture(scope="session")
def assert_weights():
    """Assert that the weights in two checkpoints are equal, or differ by `tolerance` at most."""

    def assert_weights(path, other, tolerance=0):
        actual, expected = (checkpoint.load(place)[1]["network"] for place in (path, other))
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)

    return assert_weights


@pytest.fixture
def refusal(train):
    """Run train.py with flags that it must refuse, and return the one line that it prints to stderr."""

    def refusal(*flags):
        with warnings.catch_warnings(record=True) as printed:
            # Show warnings as users see them: pytest would raise them, and the program might handle them as errors.
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)
            # A failed download by torchvision, in another test, leaves an open socket to the garbage collector.
            warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
            outcome = train(*flags)
        assert outcome.code == 2
        assert [str(warning.message) for warning in printed] == []
        (line,) = outcome.err
        assert line.startswith("train.py: ")
        return line

    return refusal


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The path where the first test that needs a checkpoint leaves it for the others."""
    return tmp_path_factory.mktemp("trained") / "run.pt"


@pytest.fixture
def saved(train, trained, tmp_path):
    """The checkpoint of a run of cross-entropy, 30 hidden neurons, two epochs."""
    if not trained.exists():
        assert train("--epochs", 2, "--checkpoint", trained).code == 0
    return shutil.copy(trained, tmp_path / "saved.pt")


@pytest.fixture(scope="session")
def files_under():
    """Return the content of every file in a folder and its subfolders."""
    return lambda folder: {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def assert_same_data():
    """Assert that two data sets are equal in all parts."""

    def assert_same_data(actual, expected):
        for actual_part, expected_part in zip(actual, expected, strict=True):
            assert torch.equal(actual_part.x, expected_part.x)
            assert torch.equal(actual_part.y, expected_part.y)

    return assert_same_data


# MNIST has thousands of examples; files with so few are read at once.
TINY_SIZES = {"TRAINING": 50, "VALIDATION": 10, "TEST": 10}
TINY_SHAPES = dict(zip(mnist.FILES, [(60, 28, 28), (60,), (10, 28, 28), (10,)], strict=True))


@pytest.fixture
def tiny_mnist(tmp_path_factory, monkeypatch):
    """A folder with files of few examples, random pixels and digits; the program expects that number of them."""
    for name, n in TINY_SIZES.items():
        monkeypatch.setattr(mnist, name, n)
    folder = tmp_path_factory.mktemp("few")
    (folder / mnist.RAW).mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for name, shape in TINY_SHAPES.items():
        values = torch.randint(256 if "images" in name else 10, shape, generator=generator).byte()
        header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
        (folder / mnist.RAW / name).write_bytes(header + values.numpy().tobytes())
    return folder


@pytest.fixture
def other_data(tiny_mnist):
    """A folder with data that is not MNIST, and the name of that data."""
    return tiny_mnist, mnist.identify(mnist.load(tiny_mnist, "cpu"))


@pytest.fixture
def tiny_mnist_packed(tiny_mnist):
    """The same folder with packed files."""
    for name in mnist.FILES:
        path = tiny_mnist / mnist.RAW / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return tiny_mnist
