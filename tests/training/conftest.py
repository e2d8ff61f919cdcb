"""What the tests of the program share: processes, checkpoints, and files of MNIST's format."""

import gzip
import shutil
import struct
import warnings
from pathlib import Path

import pytest
import torch

from ce_torch.training import checkpoint, mnist

IN_TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
LONGEST = 600  # seconds that a process may take on a machine that does much else


@pytest.fixture(scope="session")
def slice_file(slice_of_mnist, tmp_path_factory):
    path = tmp_path_factory.mktemp("slice") / "mnist.pt"
    torch.save([tuple(part) for part in slice_of_mnist], path)
    return path


@pytest.fixture(scope="module")
def start_on_slice(start, slice_file):
    """Start train.py on a slice of MNIST in a process of its own, or in two that torchrun starts."""
    program = Path(__file__).with_name("on_a_slice.py")

    def start_on_slice(*flags, in_two=False, **options):
        return start(*(IN_TWO if in_two else ()), program, slice_file, *flags, **options)

    return start_on_slice


@pytest.fixture(scope="session")
def finish():
    """Wait for the end of a process, which must be a good one, and return the lines that it has printed."""

    def finish(process):
        out, err = process.communicate(timeout=LONGEST)
        assert process.returncode == 0, err
        return out.splitlines()

    return finish


@pytest.fixture(scope="session")
def epochs_done():
    """How many epochs the checkpoint at a path has."""

    def epochs_done(path):
        _, training = checkpoint.load(path)
        return len(training["history"])

    return epochs_done


@pytest.fixture(scope="session")
def weights():
    """The weights and biases in the checkpoint at a path, by their names."""

    def weights(path):
        _, training = checkpoint.load(path)
        return training["network"]

    return weights


@pytest.fixture(scope="session")
def assert_weights():
    """Assert that the weights in two checkpoints are the same, bit for bit unless `up_to` says otherwise."""

    def assert_weights(path, other, up_to=0):
        ours, theirs = (checkpoint.load(place)[1]["network"] for place in (path, other))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=up_to)

    return assert_weights


@pytest.fixture
def fails(train):
    """train.py as a function of flags that it must refuse: returns the one line that it prints to stderr."""

    def fails(*flags):
        with warnings.catch_warnings(record=True) as printed:
            # As users see them: pytest would raise them, and the program might take them for an error that it expects.
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)
            # The garbage of another test: a download by torchvision that failed.
            warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
            outcome = train(*flags)
        assert outcome.code == 2
        assert [str(warning.message) for warning in printed] == []
        (line,) = outcome.err
        assert line.startswith("train.py: ")
        return line

    return fails


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where the first test that needs a checkpoint leaves it for the others."""
    return tmp_path_factory.mktemp("trained") / "run.pt"


@pytest.fixture
def saved(train, trained, tmp_path):
    """The checkpoint of a run of cross-entropy, 30 hidden neurons, two epochs."""
    if not trained.exists():
        assert train("--epochs", 2, "--checkpoint", trained).code == 0
    return shutil.copy(trained, tmp_path / "saved.pt")


@pytest.fixture(scope="session")
def files_under():
    """The content of every file in a folder and in those within it."""
    return lambda folder: {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def assert_same_data():
    """Assert that two pieces of data are the same in all their parts."""

    def assert_same_data(ours, theirs):
        for part, other in zip(ours, theirs, strict=True):
            assert torch.equal(part.x, other.x)
            assert torch.equal(part.y, other.y)

    return assert_same_data


# So few examples that files of them are read in no time, where MNIST has thousands.
FEW = {"TRAINING": 50, "VALIDATION": 10, "TEST": 10}
FEW_SHAPES = dict(zip(mnist.FILES, [(60, 28, 28), (60,), (10, 28, 28), (10,)], strict=True))


@pytest.fixture
def few(tmp_path_factory, monkeypatch):
    """A folder with files of few examples, random pixels and digits, which are as many as must be."""
    for name, n in FEW.items():
        monkeypatch.setattr(mnist, name, n)
    folder = tmp_path_factory.mktemp("few")
    (folder / mnist.RAW).mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for name, shape in FEW_SHAPES.items():
        values = torch.randint(256 if "images" in name else 10, shape, generator=generator).byte()
        header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
        (folder / mnist.RAW / name).write_bytes(header + values.numpy().tobytes())
    return folder


@pytest.fixture
def other_data(few):
    """A folder with data that is not MNIST, and the name of that data."""
    return few, mnist.identify(mnist.load(few, "cpu"))


@pytest.fixture
def few_packed(few):
    """A folder with the same files, packed."""
    for name in mnist.FILES:
        path = few / mnist.RAW / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return few
