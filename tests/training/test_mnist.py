"""Test MNIST as tensors: their content, where the files are found, and the names of other data."""

import gzip
import hashlib

import pytest
import torch
import torchvision

from ce_torch.training import mnist

PARTS = ["training", "validation", "test"]


@pytest.fixture(scope="module")
def unpacked(packed, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("unpacked")
    (data_dir / mnist.RAW).mkdir(parents=True)
    for name in mnist.FILES:
        (data_dir / mnist.RAW / name).write_bytes(gzip.decompress((packed / f"{name}.gz").read_bytes()))
    return data_dir


def entries(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize(("part", "n"), [("training", 50_000), ("validation", 10_000), ("test", 10_000)])
def test_the_split_is_the_chapters(real_mnist, part, n):
    x, y = getattr(real_mnist, part)
    assert (x.shape, y.shape) == ((n, 784), (n,))


@pytest.mark.parametrize("part", PARTS)
def test_pixels_are_float32_from_0_to_1(real_mnist, part):
    x, _ = getattr(real_mnist, part)
    assert (x.dtype, x.min(), x.max()) == (torch.float32, 0, 1)


@pytest.mark.parametrize("part", PARTS)
def test_labels_are_the_ten_digits_as_int64(real_mnist, part):
    _, y = getattr(real_mnist, part)
    assert y.dtype == torch.int64
    assert y.unique().tolist() == list(range(10))


@pytest.mark.parametrize(("part", "digits"), [("training", [5, 0, 4, 1, 9]), ("test", [7, 2, 1, 0, 4])])
def test_the_first_digits_are_mnists(real_mnist, part, digits):
    assert getattr(real_mnist, part).y[:5].tolist() == digits


def test_training_and_validation_data_are_torchvisions_training_set_in_order(real_mnist, unpacked):
    expected = torchvision.datasets.MNIST(unpacked)
    training, validation = real_mnist.training, real_mnist.validation
    assert torch.equal(torch.cat([training.x, validation.x]), expected.data.flatten(1) / 255)
    assert torch.equal(torch.cat([training.y, validation.y]), expected.targets)


def test_the_test_set_is_torchvisions_in_its_order(real_mnist, unpacked):
    expected = torchvision.datasets.MNIST(unpacked, train=False)
    assert torch.equal(real_mnist.test.x, expected.data.flatten(1) / 255)
    assert torch.equal(real_mnist.test.y, expected.targets)


def test_unpacked_files_are_read_like_packed_ones(real_mnist, unpacked, assert_same_data):
    assert_same_data(mnist.load(unpacked), real_mnist)


def test_mnist_is_found_from_any_folder(real_mnist, tmp_path, monkeypatch, assert_same_data):
    monkeypatch.chdir(tmp_path)
    assert_same_data(mnist.load(), real_mnist)


def test_without_the_projects_files_mnist_is_read_from_the_current_folder(tiny_mnist, monkeypatch, assert_same_data):
    monkeypatch.setattr(mnist, "SHIPPED", tiny_mnist / "nowhere")
    (tiny_mnist / "data").symlink_to(tiny_mnist)
    monkeypatch.chdir(tiny_mnist)
    assert_same_data(mnist.load(), mnist.load(tiny_mnist))


def test_a_read_only_folder_is_enough(tiny_mnist_packed):
    folders = [tiny_mnist_packed, tiny_mnist_packed / "MNIST", tiny_mnist_packed / mnist.RAW]
    before = entries(tiny_mnist_packed)
    for folder in folders:
        folder.chmod(0o555)
    try:
        mnist.load(tiny_mnist_packed)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    # Permissions do not bind root, so also check that nothing is written.
    assert entries(tiny_mnist_packed) == before


def test_other_images_under_mnists_names_are_taken_as_they_are(tiny_mnist):
    first, _, test = mnist.load(tiny_mnist)
    images = (tiny_mnist / mnist.RAW / mnist.FILES[0]).read_bytes()[16:]
    labels = (tiny_mnist / mnist.RAW / mnist.FILES[3]).read_bytes()[8:]
    assert first.x.flatten().mul(255).round().tolist() == list(images[: first.x.numel()])
    assert test.y.tolist() == list(labels)


def test_mnist_is_known(real_mnist):
    assert mnist.identify(real_mnist) == "MNIST"


def test_other_data_is_named_by_the_sha256_of_its_parts(tiny_mnist):
    images, labels, test_images, test_labels = (
        (tiny_mnist / mnist.RAW / name).read_bytes()[16 if "images" in name else 8 :] for name in mnist.FILES
    )
    split, pixels = 50, 50 * 784
    parts = images[:pixels], labels[:split], images[pixels:], labels[split:], test_images, test_labels
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    assert mnist.identify(mnist.load(tiny_mnist)) == f"data {digest[:16]}, not MNIST"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("change", ["x", "y"])
def test_another_grey_or_label_makes_other_data(slice_of_mnist, part, change):
    examples = getattr(slice_of_mnist, part)
    tensor = getattr(examples, change).clone()
    tensor.view(-1)[-1] += 1 / 255 if change == "x" else 1
    data = slice_of_mnist._replace(**{part: examples._replace(**{change: tensor})})
    assert mnist.identify(data) != mnist.identify(slice_of_mnist)
