"""What the benchmarks measure follows the signatures of the public functions, and what they print has it all."""

import inspect
from itertools import pairwise

import pytest
import torch

import ce_torch
from benchmarks import costs, results, targets
from benchmarks.cases import cases
from benchmarks.layouts import IMAGES, ROWS, STRIDED
from benchmarks.modes import MODES
from ce_torch.costs._registry import COSTS

TINY = "--rounds", "1", "--seconds", "0", "--dtype", "float32"
SIZES = {(4, 3): (ROWS, *STRIDED), (2, 3, 2, 2): IMAGES}
CASES = [
    pytest.param(case, id=f"{case.cost}-{case.name}-{layout}")
    for size, layouts in SIZES.items()
    for layout in layouts
    for case in cases(size, torch.float64, layout=layout)
]


@pytest.mark.parametrize("cost", COSTS.values(), ids=lambda cost: cost.function.__name__)
def test_every_option_of_a_cost_is_measured(cost):
    parameters = inspect.signature(getattr(ce_torch, cost.function.__name__)).parameters.values()
    options = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    names = {function.spec.name for function in cost.cost_functions}
    measured = [case for size in SIZES for case in cases(size, torch.float32) if case.cost in names]
    assert {case.cost for case in measured} == names
    assert options == set().union(*(case.options for case in measured))


@pytest.mark.parametrize("case", CASES)
def test_a_cost_and_its_peer_have_gradients_of_one_direction(case):
    ours, peer = (
        torch.autograd.grad(loss(z := case.z.clone().requires_grad_(), case.y), z)[0] for loss in (case.ours, case.peer)
    )
    torch.testing.assert_close(ours / ours.norm(), peer / peer.norm())


@pytest.mark.parametrize("mode", [mode for mode in MODES if "compiled" not in mode])
@pytest.mark.parametrize("size", SIZES)
def test_the_tables_have_every_option_of_every_cost(size, mode, tmp_path, capsys):
    costs.main([*TINY, "--mode", mode, "--size", *map(str, size), "--write", str(tmp_path / "run.json")])
    tables = capsys.readouterr().out.split("\n\n")
    for cost in costs.COSTS:
        (table,) = (body for title, body in pairwise(tables) if title.startswith(f"costs, {cost}, "))
        for case in (case for case in cases(size, torch.float32) if case.cost == cost):
            assert f"| {case.name} |" in table
        first_cells = [line.split(" | ")[0] for line in table.splitlines()[2:]]
        assert first_cells == [f"| {size}, {layout}" for layout in SIZES[size]]
    assert {row["cost"] for row in results.read(tmp_path / "run.json")["rows"]} == set(costs.COSTS)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--rounds 0", "argument --rounds: must be a whole number from 1 to"),
        ("--threads none", "argument --threads: must be a whole number from 1 to"),
        ("--seconds -1", "argument --seconds: must be a number, 0 or above, got '-1'"),
        ("--size 0 10", "argument --size: must be a whole number from 1 to"),
        ("--size 10 10 10", "argument --size: must be two numbers, N K, or four, N K H W, got 3"),
        ("--cost huber", "argument --cost: invalid choice: 'huber'"),
        ("--only huber", "argument --only: 'huber' is in none of the options: plain;"),
        (f"--write {__file__}/run.json", "argument --write: "),
    ],
)
def test_a_wrong_argument_is_told_in_a_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        costs.main(words.split())
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, 1.0),
        ({"option": "temperature"}, 1.2),
        ({"size": (128, 1000), "dtype": "float64"}, 1.0),
        ({"size": (512, 32000)}, 0.3),
        ({"size": (2, 150, 64, 64), "layout": "image", "dtype": "float16"}, 0.6),
        ({"mode": "vmap"}, 1.0),
        ({"mode": "compiled", "size": (512, 32000)}, 0.5),
        ({"mode": "compiled"}, None),
        ({"busy": True}, 0.6),
        ({"layout": "transposed", "peer_seconds": 24.0}, 0.5),
    ],
)
def test_a_cell_has_the_target_of_its_condition(changed, wanted):
    idle = {"cost": "focal", "option": "plain", "size": (10, 10), "layout": ROWS, "dtype": "float32", "mode": "eager"}
    idle |= {"threads": 1, "busy": False, "device": "cpu", "ratio": 0.5, "seconds": 10.0, "peer_seconds": 20.0}
    assert targets.ratio(idle | changed, [idle]) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("size", "mode", "wanted"),
    [
        ((10, 10), "eager", None),
        ((128, 1000), "eager", 0.05),
        ((512, 32000), "eager", 0.01),
        ((2, 150, 64, 64), "compiled", 0.01),
        ((512, 32000), "second", None),
    ],
)
def test_the_extra_memory_has_the_target_of_its_size(size, mode, wanted):
    assert targets.extra_memory({"size": size, "mode": mode}) == wanted
