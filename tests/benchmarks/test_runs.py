"""One command runs all benchmarks into a file, from which others print tables, draw, and tell what became worse."""

import json

import pytest
import torch

from benchmarks import __main__ as runs
from benchmarks import compare, report, results

TINY = {
    "costs": ["--size 4 3 --rounds 1 --seconds 0 --dtype float32 --cost focal"],
    "linear": ["--size 8 3 5 --rounds 1 --error", "--size 8 3 5 --rounds 1 --derivatives"],
}
ROW = {"benchmark": "costs", "cost": "focal", "option": "plain", "size": [10, 10], "layout": "rows"}
ROW |= {"dtype": "float32", "mode": "eager", "device": "cpu", "threads": 1, "busy": False}
ROW |= {"ratio": 0.5, "spread": 0.01, "seconds": 1e-5, "peer_seconds": 2e-5, "extra_memory": 0.05}
ROW |= {"control": 1.0, "memory_alone": 0.1}


@pytest.fixture
def file_of(tmp_path):
    """Return a function: the path of a file with this row, changed."""

    def file_of(name, versions=(), **changed):
        head = {"machine": {"cores": 2}, "versions": {"torch": "2.14.1", **dict(versions)}}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(head | {"rows": [ROW | changed]}))
        return str(path)

    return file_of


def test_a_run_keeps_the_machine_the_versions_and_each_case(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "SUBSET", TINY)
    runs.main(["--write", str(tmp_path / "run.json")])
    printed = capsys.readouterr().out
    run = results.read(tmp_path / "run.json")
    assert run["machine"]["processor"]
    assert run["versions"]["torch"] == torch.__version__
    assert {row["benchmark"] for row in run["rows"]} == {"costs", "linear"}
    assert {"ratio", "spread", "seconds", "peer_seconds", "extra_memory"} <= run["rows"][-1].keys()

    report.main([str(tmp_path / "run.json"), "--figure", str(tmp_path / "costs.png")])
    tables = [line for line in printed.splitlines() if line.startswith("|")]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")] == tables
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_can_be_of_some_benchmarks(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SUBSET", TINY)
    runs.main(["linear", "--write", str(tmp_path / "run.json")])
    assert {row["benchmark"] for row in results.read(tmp_path / "run.json")["rows"]} == {"linear"}


def test_an_interrupted_run_keeps_what_it_has_measured(tmp_path):
    def parts():
        yield [ROW]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results.keep(parts(), tmp_path / "run.json")
    assert len(results.read(tmp_path / "run.json")["rows"]) == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"ratio": 0.56}, "slower: 0.5 ± 0.01 -> 0.56 ± 0.01  benchmark: costs, cost: focal"),
        ({"extra_memory": 0.062}, "larger: 5.0% of z -> 6.2% of z  benchmark: costs, cost: focal"),
    ],
)
def test_a_case_that_became_worse_by_a_tenth_is_found(changed, told, file_of, capsys):
    assert compare.main([file_of("old"), file_of("new", **changed)]) == 1
    printed = capsys.readouterr().out
    assert told in printed
    assert "1 of 1 cases became slower or larger by 10% or more." in printed


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"ratio": 0.54}, ""),
        ({"ratio": 0.56, "spread": 0.2}, "slower, maybe noise: 0.5 ± 0.01 -> 0.56 ± 0.2"),
        ({"ratio": 0.4}, "faster: 0.5 ± 0.01 -> 0.4 ± 0.01"),
        ({"extra_memory": 0.058}, ""),
        ({"extra_memory": 0.02}, "smaller: 5.0% of z -> 2.0% of z"),
        ({"seconds": 1.0, "peer_seconds": 2.0}, ""),
    ],
)
def test_what_is_noise_or_better_is_no_failure(changed, told, file_of, capsys):
    assert compare.main([file_of("old"), file_of("new", **changed)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == ([told] if told else [])
    assert last == "0 of 1 cases became slower or larger by 10% or more."


def test_the_tolerance_can_be_another(file_of):
    assert compare.main([file_of("old"), file_of("new", ratio=0.56), "--tolerance", "0.2"]) == 0


def test_other_versions_and_other_cases_are_told(file_of, capsys):
    new = file_of("new", versions={"torch": "2.15.0", "Python": "3.12"}, threads=2)
    assert compare.main([file_of("old"), new]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "The runs differ in torch: 2.14.1, then 2.15.0.",
        "The runs differ in Python: None, then 3.12.",
        "Cases that are not in the first file: 1.",
        "Cases that are not in the second file: 1.",
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"rows": []}', '{"machine": {}, "versions": {}, "rows": [1]}', None])
@pytest.mark.parametrize("command", [compare, report], ids=["compare", "report"])
def test_another_file_is_told_in_a_sentence(command, content, file_of, tmp_path, capsys):
    wrong = tmp_path / "wrong.json"
    if content is not None:
        wrong.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        command.main([str(wrong), *([file_of("new")] if command is compare else [])])
    assert "python -m benchmarks --write writes such a file" in capsys.readouterr().err.splitlines()[-1]


def test_an_unknown_benchmark_is_told_in_a_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        runs.main(["speed"])
    told = "argument NAME: must be of costs, linear, training, scaling, threads, transformers, got 'speed'"
    assert told in capsys.readouterr().err.splitlines()[-1]
