"""One model that runs out of memory: what is tried in turn, what is told, and what the next run begins with."""

import json
from pathlib import Path

import pytest

from flows.context.options import CHECKOUT, parse
from flows.display.plain import PlainDisplay
from flows.ledger.ledger import Outcome, Step
from flows.planning import memory_limits as remembered
from flows.runner.run import Run
from flows.supervision import supervisor
from flows.supervision.recovery import DoesNotFit, Treatment
from flows.supervision.supervisor import Ending
from nanogpt.config import load_config, save_config

pytestmark = pytest.mark.fast

OUT_OF_MEMORY = Ending("out_of_memory", "DefaultCPUAllocator: can't allocate memory", {})
FINISHED = Ending("", "", {"status": "finished"})
FACTS = {
    "dataset.fetch": {"alphabet_size": 65}, "implementation.checks": {"device": "cpu"},
    "environment.device": {"device": "cpu", "memory_bytes": 2**34},
}  # fmt: skip


@pytest.fixture
def start(tmp_path):
    def start(name: str) -> Run:
        run = Run(parse(["--workspace", str(tmp_path), "--run", name, "--set", "milestones=false"]))
        run.display = PlainDisplay()
        for step, facts in FACTS.items():
            run.ledger.start(Step(step, step, lambda run: Outcome()), {}, "never run")
            run.ledger.finish(Step(step, step, lambda run: Outcome()), Outcome(facts=facts), seconds=1.0)
            run.finished_steps.add(step)
        return run

    return start


@pytest.fixture
def treat(start, monkeypatch):
    """Treat tiny_model, whose trainer ends as the script says; the run and the arguments of each trainer."""

    def treat(*script, name: str = "first"):
        run, asked, endings = start(name), [], iter(script)
        config = load_config(CHECKOUT / "configs/tiny_model.yaml").with_changes({
            "data.tokenizer": "char", "device.type": "cpu", "device.mixed_precision": False})  # fmt: skip
        save_config(config, run.paths.configs / "tiny_model.yaml")
        folder = run.paths.checkpoints / "tiny_model"
        folder.mkdir(parents=True)

        def train(arguments, folder: Path, *others, **named) -> Ending:
            asked.append(" ".join(arguments[arguments.index("--micro-batch") + 1 :]))
            halvings, ending = next(endings)
            with open(folder / "events.jsonl", "a") as file:
                for micro_batch in halvings:
                    row = {"event": "out_of_memory", "step": 7, "message": "refused", "micro_batch": micro_batch}
                    file.write(json.dumps(row) + "\n")
            return ending

        monkeypatch.setattr(supervisor, "train", train)
        return run, asked, Treatment(run, config, folder)

    return treat


def test_everything_is_tried_in_turn_and_then_it_does_not_fit(treat):
    run, asked, treatment = treat(*[([], OUT_OF_MEMORY)] * 20)
    with pytest.raises(DoesNotFit, match="tiny_model does not fit into memory: DefaultCPUAllocator"):
        treatment.until_it_ends()
    recomputed = "1 --set device.gradient_checkpointing=true"
    assert asked == ["12", "6", "3", "1", recomputed, f"{recomputed} --set device.longest_window=64"]
    assert [row["symptom"] for row in run.remedies] == ["out_of_memory"] * 5


def test_what_the_trainer_halved_by_itself_is_told_and_where_the_next_one_begins(treat):
    run, asked, treatment = treat(([6, 3], Ending("killed", "ended by SIGKILL", {})), ([], FINISHED))
    assert treatment.until_it_ends() == FINISHED
    assert asked == ["12", "3"]
    rows = [(row["symptom"], row["outcome"], row["steps_lost"]) for row in run.remedies[:2]]
    assert rows == [("out_of_memory", "micro-batch 6, cpu", 0), ("out_of_memory", "micro-batch 3, cpu", 0)]


def test_what_fitted_is_where_the_next_run_begins(treat, monkeypatch):
    _, _, treatment = treat(([6, 3, 1], OUT_OF_MEMORY), ([], FINISHED))
    treatment.until_it_ends()
    _, asked, treatment = treat(([], FINISHED), name="second")
    treatment.until_it_ends()
    assert asked == ["1 --set device.gradient_checkpointing=true"]


def test_a_library_that_dies_where_torch_was_refused_memory_died_of_it(treat):
    aborted = Ending("aborted", "ended by SIGSEGV", {})
    run, asked, treatment = treat(([6], aborted), ([], aborted), ([], FINISHED))
    treatment.until_it_ends()
    assert asked == ["12", "3", "1"]
    assert "SIGSEGV, after memory had run out in step 7" in run.remedies[1]["evidence"]


def test_an_abort_is_none_of_memory_where_it_had_not_run_out(treat):
    run, asked, treatment = treat(([], Ending("aborted", "ended by SIGSEGV", {})), ([], FINISHED))
    treatment.until_it_ends()
    assert asked == ["12", "12"] and run.remedies[-1]["symptom"] == "aborted"


def test_a_trainer_that_is_killed_before_it_has_made_its_folder_is_started_again(treat, monkeypatch):
    run, _, treatment = treat()
    treatment.folder.rmdir()
    endings = iter([Ending("killed", "ended by SIGKILL", {}), FINISHED])
    monkeypatch.setattr(supervisor, "train", lambda *others, **named: next(endings))
    assert treatment.until_it_ends() == FINISHED
    assert [row["symptom"] for row in run.remedies] == ["killed"]


def test_a_disk_that_cannot_keep_what_fitted_does_not_end_the_training(start, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    run = start("first")
    monkeypatch.setattr(remembered.MemoryStore, "note_limit", full)
    remembered.note(run, load_config(CHECKOUT / "configs/micro.yaml"), None, "refused")
    assert "could not be remembered" in (run.paths.logs / "automation_log.txt").read_text()
