"""Test the section's figures: what they show, that they are the same every time, and the networks behind them."""

import re
import sys
from io import BytesIO

import pytest
from PIL import Image

from ce_torch.chapter import animation, figures
from ce_torch.chapter.curves import png
from ce_torch.chapter.digits import load_test_images, load_trained, most_wrong
from ce_torch.chapter.figures import DRAWINGS
from ce_torch.training import checkpoint
from ce_torch.training.loop import evaluate

NETWORKS = ["quadratic", "ce", "ll"]


@pytest.fixture(autouse=True)
def chdir_to_project(root, monkeypatch):
    monkeypatch.chdir(root)


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_axis_has_a_label(name, section_figure):
    for axes in section_figure(name).axes:
        if axes.axison and axes.get_label() != "<colorbar>":
            assert axes.get_xlabel()
            assert axes.get_ylabel()


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_has_a_legend(name, section_figure):
    figure = section_figure(name)
    assert figure.legends or all(axes.get_legend() for axes in figure.axes if axes.get_legend_handles_labels()[0])


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_caption_names_its_equations(name):
    assert re.search(r"\(\d\d\)", DRAWINGS[name].caption)


SLOW = ("starts", "digits")  # figures that take long to draw


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in DRAWINGS]
)
def test_a_figure_is_the_same_every_time_to_the_byte(name, section_figure):
    assert png(section_figure(name)) == png(DRAWINGS[name].draw())


@pytest.fixture
def write_figures(tmp_path, monkeypatch):
    """Run the program in a folder of its own, and return the content of each file that it writes, by name."""

    def write_figures():
        monkeypatch.setattr(sys, "argv", ["figures", "--write", str(tmp_path)])
        assert figures.main() == 0
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    return write_figures


@pytest.mark.slow
def test_the_program_writes_the_files_in_docs_up_to_rounding(write_figures, root):
    docs = {path.name: path.read_bytes() for path in (root / "docs" / "figures").iterdir()}
    written = write_figures()
    assert {name: len(content) for name, content in written.items()} == {
        name: pytest.approx(len(content), rel=0.1) for name, content in docs.items()
    }


def test_the_program_writes_every_figure_and_a_page_that_shows_them(write_figures, section_figure, monkeypatch):
    for name, drawing in DRAWINGS.items():
        monkeypatch.setitem(DRAWINGS, name, drawing._replace(draw=lambda name=name: section_figure(name)))
    monkeypatch.setattr(animation, "EPOCHS_PER_FRAME", 100)
    written = write_figures()
    assert written.keys() == {*(f"{name}.png" for name in DRAWINGS), "neuron.gif", "README.md"}
    for name in DRAWINGS:
        assert f"]({name}.png)" in written["README.md"].decode()
        assert written[f"{name}.png"].startswith(b"\x89PNG")
    with Image.open(BytesIO(written["neuron.gif"])) as moving:
        assert moving.n_frames == 4  # of 301 epochs


def test_the_page_in_docs_is_the_one_that_the_program_writes(root):
    assert (root / "docs" / "figures" / "README.md").read_text() == figures.page()
    assert {path.stem for path in (root / "docs" / "figures").glob("*.png")} == set(DRAWINGS)


def test_the_animation_is_small_and_moves(root):
    path = root / "docs" / "figures" / "neuron.gif"
    assert path.stat().st_size < 1_000_000
    with Image.open(path) as animation:
        assert animation.n_frames > 20


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_the_project_is_as_good_as_its_history_says(name, real_mnist):
    network, cost, history = load_trained(name)
    last = history[-1]["test"]
    actual = evaluate(network, cost, *real_mnist.test)
    assert len(history) == 30
    assert actual["correct"] == pytest.approx(last["correct"], abs=1)  # another processor may round differently
    assert actual["cost"] == pytest.approx(last["cost"], rel=1e-4)


def test_the_digits_most_wrong_are_those_of_the_highest_cost(real_mnist):
    network = load_trained("ce")
    x, y = (part[:500] for part in real_mnist.test)
    found = most_wrong(network, x, y, n=3)
    costs = [evaluate(network.network, network.cost, x[i : i + 1], y[i : i + 1])["cost"] for i in range(500)]
    highest = sorted(range(500), key=lambda i: -costs[i])[:3]
    assert found.numbers.tolist() == highest
    assert (found.a.argmax(1) != found.y).all()


def test_the_test_images_are_found_from_any_folder_and_read_once(real_mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_test_images().x.equal(real_mnist.test.x)
    assert load_test_images() is load_test_images()


def test_a_checkpoint_that_is_missing_is_named(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=r"chapter-ce\.pt cannot be read"):
        load_trained("ce", tmp_path)
