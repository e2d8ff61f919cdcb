"""Test that the page computes what the library computes."""

import pytest
import torch

from ce_torch import CrossEntropyCost, LogLikelihoodCost, QuadraticCost
from ce_torch.chapter.digits import load_trained
from ce_torch.chapter.handwriting import to_mnist
from ce_torch.chapter.neuron import epochs_to_output, learn
from ce_torch.chapter.softmax import layer

COSTS = {
    "quadratic": QuadraticCost(),
    "linear": QuadraticCost(activation="linear"),
    "crossEntropy": CrossEntropyCost(),
    "logLikelihood": LogLikelihoodCost(),
}
EXACT = {"rtol": 1e-6, "atol": 1e-6}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def examples(name):
    """Return weighted inputs and desired outputs of 3 neurons: mild, saturated, and far beyond that."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    z *= tensor([1.0, 10.0, 300.0]).repeat(20)[:, None]
    y = torch.rand(60, 3, generator=generator, dtype=torch.float64)
    if name == "logLikelihood":
        y = y.softmax(1)
    return z, torch.cat([y[:30], y[30:].round() if name != "logLikelihood" else y[30:]])


@pytest.mark.parametrize("name", COSTS)
def test_costs_deltas_and_activations_are_the_librarys(name, shared):
    z, y = examples(name)
    found = shared.evaluate(
        f"""([z, y]) => ["cost", "delta", "activation"].map(
            (value) => z.map((row, i) => Costs.{name}[value](row, y[i])))""",
        [z.tolist(), y.tolist()],
    )
    cost = COSTS[name]
    expected = (type(cost).function(z, y, **cost.options | {"reduction": "none"}), cost.delta(z, y), cost.activation(z))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor(ours), theirs, **EXACT)


@pytest.mark.parametrize("name", ["quadratic", "crossEntropy"])
@pytest.mark.parametrize(("w", "b"), [(2.0, 2.0), (0.6, 0.9), (-3.0, 5.0)])
@pytest.mark.parametrize(("x", "y"), [(1.0, 0.0), (-0.5, 1.0)])
def test_a_neuron_learns_as_the_librarys_does(name, w, b, x, y, shared):
    course = shared.evaluate(
        f"([start, options]) => Neuron.learn(Costs.{name}, start, options)",
        [{"w": w, "b": b}, {"eta": 0.15, "epochs": 300, "x": x, "y": y}],
    )
    lesson = learn(COSTS[name], w, b, eta=0.15, x=x, y=y)
    for letter in ("w", "b", "a", "C", "delta"):
        torch.testing.assert_close(tensor(course[letter]), getattr(lesson, letter), **EXACT)


@pytest.mark.parametrize("name", ["quadratic", "crossEntropy"])
@pytest.mark.parametrize(("w", "b"), [(2.0, 2.0), (0.6, 0.9), (5.0, 5.0)])
def test_epochs_to_an_output_are_the_librarys(name, w, b, shared):
    epochs = shared.evaluate(
        f"(start) => Neuron.epochsToOutput(Costs.{name}, start, {{ eta: 0.15, goal: 0.1, patience: 1000 }})",
        {"w": w, "b": b},
    )
    expected = epochs_to_output(learn(COSTS[name], w, b, eta=0.15, epochs=1000), 0.1)
    assert epochs == expected.item()


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_softmax_and_its_slopes_are_the_librarys(c, shared):
    z, _ = examples("logLikelihood")
    a, slopes = shared.evaluate("([z, c]) => [Costs.softmax(z, c), Costs.softmaxSlopes(z, c)]", [z[1].tolist(), c])
    expected = layer(z[1], 1 / c)
    torch.testing.assert_close(tensor(a), expected.a, **EXACT)
    torch.testing.assert_close(tensor(slopes), expected.slopes, **EXACT)


@pytest.mark.parametrize(("c", "shares"), [("0", [0.25] * 4), ("Infinity", [0.0, 0.5, 0.5, 0.0])])
def test_the_limits_of_softmax_share_among_ties(c, shares, shared):
    assert shared.evaluate(f"Costs.softmax([1, 3, 3, -2], {c})") == shares


def test_the_page_has_the_projects_test_digits(shared, real_mnist):
    numbers, x, y = shared.evaluate(
        "['number', 'x', 'y'].map((name) => Digits.images.map((image) => name === 'x' ? [...image.x] : image[name]))"
    )
    torch.testing.assert_close(tensor(x), real_mnist.test.x[numbers].double(), **EXACT)
    assert y == real_mnist.test.y[numbers].tolist()


def test_the_network_gives_the_outputs_of_its_checkpoint_in_float16(shared, real_mnist):
    network = load_trained("ll").network.half().double()
    numbers, z = shared.evaluate(
        "[Digits.images.map((i) => i.number), Digits.images.map((i) => Digits.weightedInputs(i.x))]"
    )
    torch.testing.assert_close(tensor(z), network(real_mnist.test.x[numbers].double()), **EXACT)


@pytest.mark.parametrize(
    ("width", "height", "box"), [(112, 112, (3, 9, 100, 80)), (60, 90, (50, 2, 9, 86)), (30, 30, (4, 5, 11, 6))]
)
def test_a_drawing_becomes_the_image_that_the_library_makes_of_it(width, height, box, shared):
    left, top, columns, rows = box
    drawing = torch.zeros(height, width)
    drawing[top : top + rows, left : left + columns] = torch.rand(
        rows, columns, generator=torch.Generator().manual_seed(0)
    )
    found = shared.evaluate(
        "(drawing) => [...Handwriting.toMnist(drawing)]",
        {
            "ink": drawing.double().flatten().tolist(),
            "width": width,
            "height": height,
        },
    )
    torch.testing.assert_close(tensor(found), to_mnist(drawing).double(), **EXACT)
