"""Test that a drawn digit becomes an image like those of MNIST."""

import pytest
import torch
from torch.nn.functional import interpolate, pad

from ce_torch.chapter.digits import load_trained
from ce_torch.chapter.handwriting import to_mnist


def enlarge_and_move(x, scale, left, top):
    """Return an image of MNIST as somebody might have drawn it: larger, and anywhere."""
    image = interpolate(x.view(1, 1, 28, 28), scale_factor=scale, mode="bilinear")[0, 0]
    return pad(image, (left, 5, top, 9))


def test_an_image_of_mnist_that_was_moved_is_moved_back(real_mnist):
    whole = [x for x in real_mnist.test.x[:100] if spans_the_box(x)]
    for x in whole:
        torch.testing.assert_close(to_mnist(enlarge_and_move(x, 1, 13, 2)), x)
    assert len(whole) > 90


def spans_the_box(x):
    ink = x.view(28, 28) > 0
    return max(ink.any(0).sum(), ink.any(1).sum()) == 20


@pytest.mark.parametrize("scale", [2, 5])
def test_the_network_reads_a_large_digit_as_it_reads_the_small_one(scale, real_mnist):
    network = load_trained("ce").network
    x = real_mnist.test.x[:200]
    large = torch.stack([to_mnist(enlarge_and_move(image, scale, 40, 3)) for image in x])
    assert (network(large).argmax(1) == network(x).argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize("shape", [(56, 4), (4, 56), (1, 1), (300, 200)])
def test_a_drawing_fits_the_box_and_keeps_its_proportions(shape):
    drawing = pad(torch.ones(shape), (30, 2, 7, 50))
    ink = to_mnist(drawing).view(28, 28) > 0
    height, width = (int(ink.any(dim).sum()) for dim in (1, 0))
    assert max(height, width) == 20
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.5)


def test_the_centre_of_mass_is_in_the_middle():
    drawing = torch.zeros(56, 56)
    drawing[5:50, 8:12] = drawing[46:50, 8:40] = 1  # an L
    image = to_mnist(drawing).view(28, 28)
    for dim in (0, 1):
        ink = image.sum(dim)
        assert (ink * torch.arange(28)).sum() / ink.sum() == pytest.approx(14, abs=0.5)


def test_a_drawing_without_ink_is_an_empty_image():
    assert to_mnist(torch.zeros(56, 56)).equal(torch.zeros(784))
