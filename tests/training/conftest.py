"""train.py in processes of its own, and what is in the files that it leaves."""

import struct
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


@pytest.fixture(scope="module")
def other_data(real_mnist, tmp_path_factory):
    """A folder with data that is not MNIST, inverted images of it, and the name of that data."""
    folder = tmp_path_factory.mktemp("other")
    raw = folder / mnist.RAW
    raw.mkdir(parents=True)
    for name, n in zip(mnist.FILES[::2], (60_000, 10_000), strict=True):
        images = (255 * (1 - real_mnist.test.x[:1_000])).round().byte().repeat(n // 1_000, 1)
        (raw / name).write_bytes(struct.pack(">4I", 0x803, n, 28, 28) + images.numpy().tobytes())
    for name, n in zip(mnist.FILES[1::2], (60_000, 10_000), strict=True):
        labels = real_mnist.test.y[:1_000].byte().repeat(n // 1_000)
        (raw / name).write_bytes(struct.pack(">2I", 0x801, n) + labels.numpy().tobytes())
    return folder, mnist.identify(mnist.load(folder))
