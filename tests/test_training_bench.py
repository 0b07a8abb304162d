"""bench.training: each kind of machine keeps its table, whose figures follow from what was measured."""

import argparse
import sys
from pathlib import Path

import pytest

from bench.equal_shapes import LARGE, SHAPES, Result, Trainer, of_shape, trainers
from bench.race import RACES, Finish, run
from bench.this_machine import HELD_TO, this_machine, write_section
from bench.training import report

SMALL = SHAPES["cpu"][0]
NOWHERE = Path("/nowhere")


def test_a_kinds_section_is_replaced_and_those_of_other_kinds_stay(tmp_path):
    document = tmp_path / "docs.md"
    for kind, text in (("AMX", "one\n\n### Race\n\na"), ("AVX2", "two"), ("AMX", "three\n\n### Race\n\nb\n")):
        write_section(document, f"# Title\n\nof {text.split()[0]}\n", kind, text)
    assert document.read_text() == "# Title\n\nof three\n\n## AMX\n\nthree\n\n### Race\n\nb\n\n## AVX2\n\ntwo\n"


def test_a_machine_that_stands_for_a_lesser_one_says_so(monkeypatch):
    monkeypatch.delenv(HELD_TO, raising=False)
    assert "held" not in this_machine()
    monkeypatch.setenv(HELD_TO, "AVX2")
    assert f"held to this by {HELD_TO}=AVX2" in this_machine()


@pytest.mark.parametrize("loss, words", [(1.8857, "this project reaches 1.8857"), (1.8858, "does not reach 1.8857")])
def test_the_report_says_what_was_measured(loss, words):
    finishes = {
        "nanoGPT": [Finish(80.0, 1.8982, 804_096, 2000, "float32")],
        "this project": [Finish(9.0, 1.87, 1, 195, "float32"), Finish(11.0, loss, 1, 195, "float32")],
    }
    both = [Trainer(name, "float32", (), NOWHERE) for name in ("nanoGPT", "this project")]
    results = [Result(SMALL, threads, each, speed * threads, 0.0)
               for threads in (2, 1) for each, speed in zip(both, (1000.0, 1500.0), strict=True)]  # fmt: skip
    rates = {threads: dict.fromkeys(("float32", "bfloat16"), threads * 1e12) for threads in (2, 1)}
    text = report(argparse.Namespace(device="cpu", rounds=2), RACES["cpu"], finishes, results, rates)
    assert "**8.0 times faster** than nanoGPT" in text and words in " ".join(text.split())
    share = 1500 * SMALL.flops_per_token("cpu") / 1e12
    for threads in (2, 1):
        row = next(line for line in text.splitlines() if f"| {threads} | this project" in line)
        assert f"| {1500 * threads:,} | 1.50 |" in row and row.endswith(f"| {100 * share:.0f} % |")


def test_the_contenders_are_those_that_were_asked_for():
    names = [each.name for each in trainers("cpu", NOWHERE, None, None)]
    assert names[0] == "nanoGPT" and not {"LitGPT", "Lightning"} & set(names)
    everybody = trainers("cpu", NOWHERE, "litgpt", "lightning")
    assert {"LitGPT", "Lightning"} <= {each.name for each in everybody}
    assert [threads for threads, _ in of_shape(SMALL, 2, everybody)] == [2, 1]
    [(threads, some)] = of_shape(LARGE, 2, everybody)
    assert threads == 2 and some[0].name == "nanoGPT" and "LitGPT" not in {each.name for each in some}


def test_a_contender_that_fails_is_one_line_with_its_last_words():
    with pytest.raises(SystemExit, match="ModuleNotFoundError: No module named 'nothing_of_the_kind'"):
        run([sys.executable, "-c", "import nothing_of_the_kind"], Path.cwd())
