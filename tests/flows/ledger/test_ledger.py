"""Progress markers: what is kept, what is run again, and the reason given."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from flows.ledger.facts import Key, NoFacts, Remedy
from flows.ledger.ledger import Ledger, settings_changes
from flows.ledger.markers import Marker, last_finished
from flows.ledger.steps import StepResult, StepSpec
from nanogpt.records import to_json

pytestmark = pytest.mark.fast

CHECKOUT = Path(__file__).resolve().parents[3]
SETTINGS = {"training": {"max_iters": 2000, "seed": 1}}


@dataclass(frozen=True)
class Text:
    characters: int = 6
    seconds: float = 0.0


def step(name: str, title: str, **more) -> StepSpec[Text]:
    return StepSpec(key=Key(name, Text), title=title, **more)


class House:
    """A checkout, a workspace and steps in them; each `session` is what a new process would see."""

    def __init__(self, folder: Path):
        self.checkout = folder / "checkout"
        self.workspace = folder / "workspace"
        self.workspace.mkdir(parents=True)
        self.source = self.checkout / "nanogpt" / "data" / "tokenizer.py"
        self.source.parent.mkdir(parents=True)
        self.source.write_text("version = 1\n")

    def session(self) -> Ledger:
        folder = self.workspace / "state" / "default" / "markers"
        return Ledger(folder, self.workspace, self.checkout, versions={"python": "3.12"})

    def write(self, name: str, text: str) -> Path:
        path = self.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def done(
        self, step: StepSpec, text: str = "tokens", settings: dict = SETTINGS, facts=Text(), identity=None
    ) -> Ledger:
        """One session in which `step` ran and wrote `text`."""
        ledger = self.session()
        ledger.start(step, settings, ledger.decide(step, settings).reason)
        path = self.write(f"data/{step.name}.bin", text)
        ledger.finish(step, StepResult(facts, [path], identity), seconds=1.5, commit="abc")
        return ledger

    def marker_file(self, step: StepSpec) -> Path:
        return self.workspace / "state" / "default" / "markers" / f"{step.name}.json"

    def copy(self, step: StepSpec) -> Path:
        return self.workspace / "state" / "default" / "copies" / f"{step.name}.json"

    def set_aside(self, step: StepSpec) -> Path:
        return self.marker_file(step).with_name(f"{step.name}.json.bad")


@pytest.fixture
def house(tmp_path) -> House:
    return House(tmp_path)


TOKENIZER = "nanogpt/data/tokenizer.py"
CLEAN = step("dataset.clean", "Clean the text")
TOKENISE = step("dataset.tokenise", "Tokenise", needs=("dataset.clean",), code=(TOKENIZER,))
TRAIN = step("training.small", "Train small", code=(TOKENIZER,), costly=True)
PLAN = step("configuration.plan", "Plan", decides=True)


def reason(house: House, step: StepSpec, settings: dict = SETTINGS) -> str:
    decision = house.session().decide(step, settings)
    assert not decision.keep
    return decision.reason


def kept(house: House, step: StepSpec, settings: dict = SETTINGS) -> bool:
    return house.session().decide(step, settings).keep


# Kept


def test_a_step_that_never_ran_is_run(house):
    assert reason(house, CLEAN) == "never run"
    assert house.session().marker("dataset.clean") is None


def test_a_finished_step_is_kept_with_the_time_it_finished(house):
    house.done(CLEAN, facts=Text(6))
    decision = house.session().decide(CLEAN, SETTINGS)
    assert decision.keep
    assert re.fullmatch(r"finished \d{4}-\d\d-\d\d \d\d:\d\d, inputs and outputs unchanged", decision.reason)
    assert house.session().facts(CLEAN.key) == Text(6)


def test_the_marker_is_readable_and_tells_how_the_step_was_made(house):
    house.done(CLEAN)
    text = house.marker_file(CLEAN).read_text()
    marker = json.loads(text)
    assert '\n  "title": "Clean the text",\n' in text
    assert marker["outputs"][0]["path"] == "data/dataset.clean.bin"
    assert marker["outputs"][0]["size"] == 6
    assert marker["seconds"] == 1.5
    assert marker["commit"] == "abc"
    assert marker["reason"] == "never run"
    assert marker["versions"] == {"python": "3.12"}
    assert marker["facts"] == {"characters": 6, "seconds": 0.0}


def test_deciding_writes_nothing(house):
    house.done(CLEAN)
    house.marker_file(CLEAN).write_text("{")
    before = sorted(house.workspace.rglob("*"))
    house.session().decide(CLEAN, SETTINGS)
    assert sorted(house.workspace.rglob("*")) == before
    assert house.marker_file(CLEAN).read_text() == "{"


def test_redo_runs_a_step_that_would_be_kept(house):
    house.done(CLEAN)
    decision = house.session().decide(CLEAN, SETTINGS, redo=True)
    assert (decision.keep, decision.reason) == (False, "asked for (--redo)")


# Settings


def test_a_changed_setting_is_named_with_both_values(house):
    house.done(CLEAN)
    assert reason(house, CLEAN, {"training": {"max_iters": 5000, "seed": 1}}) == "training.max_iters 2000 -> 5000"


def test_of_many_changed_settings_two_are_named(house):
    house.done(CLEAN, settings={"a": 1, "b": {"c": 2, "d": 3}, "e": 4})
    assert reason(house, CLEAN, {"a": 5, "b": {"c": 6, "d": 7}, "e": 8}) == "a 1 -> 5, b.c 2 -> 6 and 2 more"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({}, {"seed": 3}, ["seed added (3)"]),
        ({"seed": 3}, {}, ["seed removed (was 3)"]),
        ({"a": {"b": None}}, {"a": {"b": True}}, ["a.b null -> true"]),
        ({"betas": [0.9, 0.95]}, {"betas": [0.9, 0.99]}, ["betas.1 0.95 -> 0.99"]),
        ({"a": 1}, {"a": True}, ["a 1 -> true"]),
        ({"a": 1}, {"a": 1.0}, ["a 1 -> 1.0"]),
        ({"a": ""}, {"a": "x"}, ['a "" -> x']),
        ({"a": "x" * 50 + "1"}, {"a": "x" * 50 + "2"}, ["a changed"]),
        ({"a": {}}, {"a": {}}, []),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, []),
        ({"a": [1, 2]}, {"a": [1]}, ["a.1 removed (was 2)"]),
        ({"budget": 180.0}, {"budget": 5400.0}, ["budget 3 min -> 1 h 30 min"]),
        ({"budget": "soon"}, {"budget": 60.0}, ["budget soon -> 1 min"]),
    ],
)
def test_differences_of_settings_in_words(old, new, said):
    assert settings_changes(old, new) == said


def test_settings_are_recorded_as_they_were_at_the_start(house):
    settings = {"training": {"max_iters": 1}}
    ledger = house.session()
    ledger.start(CLEAN, settings, "never run")
    settings["training"]["max_iters"] = 2
    ledger.finish(CLEAN, StepResult(Text()), seconds=0.0)
    assert kept(house, CLEAN, {"training": {"max_iters": 1}})
    assert not kept(house, CLEAN, settings)


def test_tuples_count_as_the_lists_that_json_makes_of_them(house):
    house.done(CLEAN, settings={"shape": (1, 2)})
    assert kept(house, CLEAN, {"shape": (1, 2)})
    assert kept(house, CLEAN, {"shape": [1, 2]})


# Inputs


def test_other_output_of_an_upstream_step_is_the_reason(house):
    house.done(CLEAN, "one")
    house.done(TOKENISE)
    house.done(CLEAN, "two")
    assert reason(house, TOKENISE) == "Clean the text gave other output"


def test_identical_output_of_an_upstream_step_stops_the_wave(house):
    house.done(CLEAN, "one", facts=Text(3))
    house.done(TOKENISE)
    house.done(CLEAN, "one", settings={"training": {"max_iters": 9}}, facts=Text(3))
    assert kept(house, TOKENISE)


def test_other_facts_are_other_output(house):
    house.done(CLEAN, "one", facts=Text(3))
    house.done(TOKENISE)
    house.done(CLEAN, "one", facts=Text(4))
    assert reason(house, TOKENISE) == "Clean the text gave other output"


@dataclass(frozen=True)
class LaterText:
    characters: int = 6
    seconds: float = 0.0
    unknown: int = 0


def test_a_fact_that_a_later_version_adds_is_other_output_only_when_it_says_something(house):
    house.done(CLEAN, "one", facts=Text(3))
    house.done(TOKENISE)
    later = replace(CLEAN, key=Key("dataset.clean", LaterText))
    house.done(later, "one", facts=LaterText(3))
    assert house.session().facts(later.key) == LaterText(3, unknown=0) and kept(house, TOKENISE)
    house.done(later, "one", facts=LaterText(3, unknown=2))
    assert reason(house, TOKENISE) == "Clean the text gave other output"


def test_a_declared_identity_is_all_that_later_steps_see(house):
    house.done(CLEAN, "log of one day", identity="same", facts=Text(seconds=1.0))
    house.done(TOKENISE)
    digest = house.session().output_digest("dataset.clean")
    house.done(CLEAN, "log of another day", identity="same", facts=Text(seconds=2.0))
    assert house.session().output_digest("dataset.clean") == digest
    assert kept(house, TOKENISE)


def test_an_upstream_step_under_way_is_named(house):
    house.done(CLEAN)
    house.done(TOKENISE)
    house.session().start(CLEAN, SETTINGS, "asked for (--redo)")
    assert reason(house, TOKENISE) == "Clean the text has not finished"


def test_a_report_made_without_a_failed_step_is_made_again_when_that_changes(house):
    ledger = house.session()
    ledger.start(CLEAN, SETTINGS, "never run")
    ledger.fail(CLEAN, "disk full")
    house.done(TOKENISE)
    assert kept(house, TOKENISE)
    ledger.start(CLEAN, SETTINGS, "failed")
    ledger.fail(CLEAN, "no network")
    assert not kept(house, TOKENISE)
    house.done(TOKENISE)
    house.done(CLEAN)
    assert reason(house, TOKENISE) == "Clean the text has finished since"


def test_a_new_and_a_dropped_need_are_named(house):
    house.done(CLEAN)
    house.done(TOKENISE)
    assert reason(house, replace(TOKENISE, needs=())) == "no longer needs dataset.clean"
    two = replace(TOKENISE, needs=("dataset.clean", "dataset.split"))
    assert reason(house, two) == "now needs dataset.split"


# Code


def test_changed_code_of_a_cheap_step_is_named(house):
    house.done(TOKENISE)
    house.source.write_text("version = 2\n")
    assert reason(house, TOKENISE) == "code of nanogpt/data/tokenizer.py changed"


def test_a_costly_step_is_kept_as_made_by_older_code(house):
    house.done(TRAIN)
    house.source.write_text("version = 2\n")
    decision = house.session().decide(TRAIN, SETTINGS)
    assert decision.keep
    expected = "made by older code of nanogpt/data/tokenizer.py; --redo training.small to run it again"
    assert decision.reason == expected


def test_a_costly_step_with_older_code_is_still_checked_otherwise(house):
    house.done(TRAIN)
    house.source.write_text("version = 2\n")
    assert reason(house, TRAIN, {"training": {"max_iters": 3, "seed": 1}}) == "training.max_iters 2000 -> 3"
    house.write("data/training.small.bin", "tok")
    assert reason(house, TRAIN) == "data/training.small.bin is 3 bytes short"


def test_code_may_be_a_file_or_whatever_fits_a_pattern(house):
    templates = house.checkout / "templates"
    templates.mkdir()
    (templates / "report.md.j2").write_text("a")
    for pattern in ("templates/*.j2", "templates/report.md.j2", "nanogpt/data/*.py", "nanogpt/**"):
        cheap = replace(TRAIN, code=(pattern,), costly=False)
        house.done(cheap)
        assert kept(house, cheap), pattern
    cheap = replace(TRAIN, code=("templates/*.j2", "nanogpt/**"), costly=False)
    house.done(cheap)
    (templates / "card.md.j2").write_text("new")
    assert reason(house, cheap) == "code of templates/*.j2 changed"
    house.done(cheap)
    (house.source.parent / "shards.py").write_text("new")
    assert reason(house, cheap) == "code of nanogpt/** changed"


def test_compiled_files_are_no_code(house):
    cheap = replace(TRAIN, code=("nanogpt/**",), costly=False)
    house.done(cheap)
    cache = house.source.parent / "__pycache__"
    cache.mkdir()
    (cache / "tokenizer.cpython-311.pyc").write_bytes(b"x")
    (house.source.parent / ".tokenizer.py.swp").write_bytes(b"x")
    assert kept(house, cheap)


def test_code_that_does_not_exist_is_refused(house):
    with pytest.raises(FileNotFoundError, match="nanogpt/daat"):
        house.session().start(replace(TRAIN, code=("nanogpt/daat/**",)), SETTINGS, "never run")


def test_code_edited_during_the_work_runs_the_step_next_time(house):
    ledger = house.session()
    ledger.start(TOKENISE, SETTINGS, "never run")
    house.source.write_text("version = 2\n")
    ledger.finish(TOKENISE, StepResult(Text()), seconds=0.0)
    assert reason(house, TOKENISE) == "code of nanogpt/data/tokenizer.py changed"


def test_a_module_edited_between_the_start_of_the_run_and_of_the_step_is_not_trusted(house):
    ledger = house.session()  # this process may have imported version 1 by now
    house.source.write_text("version = 2\n")
    ledger.start(TOKENISE, SETTINGS, "never run")
    ledger.finish(TOKENISE, StepResult(Text()), seconds=0.0)
    assert reason(house, TOKENISE) == "code of nanogpt/data/tokenizer.py changed"


def test_digests_of_code_import_nothing(tmp_path):
    script = """
        import sys
        from pathlib import Path
        from flows.ledger.facts import Key, NoFacts
        from flows.ledger.ledger import Ledger
        from flows.ledger.steps import StepResult, StepSpec
        ledger = Ledger(Path("markers"), Path("."), Path(sys.argv[1]))
        step = StepSpec(key=Key("a", NoFacts), title="A", code=("nanogpt/durable.py", "flows/**", "nanogpt/model/**"))
        ledger.start(step, {}, "never run")
        ledger.finish(step, StepResult(NoFacts()), 0.0)
        print([name for name in ("torch", "prefect", "git", "flows.runner.run") if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(CHECKOUT)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Facts


@dataclass(frozen=True)
class Counted:
    characters: int
    words: int


def test_facts_of_another_version_are_none_and_make_their_step_run_again(house):
    house.done(CLEAN)
    later = replace(CLEAN, key=Key("dataset.clean", Counted))
    assert house.session().facts(later.key) is None
    assert reason(house, later).startswith("its facts are of another version (")
    assert house.session().facts(TOKENISE.key) is None, "never run"


# Outputs


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_text("tok"), "data/dataset.clean.bin is 3 bytes short"),
        (lambda path: path.write_text("token"), "data/dataset.clean.bin is 1 byte short"),
        (lambda path: path.write_text("tokens!!"), "data/dataset.clean.bin is 2 bytes longer"),
        (lambda path: path.write_text("tokenz"), "data/dataset.clean.bin changed (sha256 differs)"),
        (lambda path: path.unlink(), "data/dataset.clean.bin is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "data/dataset.clean.bin is a folder, not a file"),
        (lambda path: (path.unlink(), path.symlink_to("nothing")), "data/dataset.clean.bin is missing"),
        (lambda path: shutil.rmtree(path.parent), "data/dataset.clean.bin is missing"),
    ],
)
def test_damaged_output_is_the_reason(house, damage, said):
    house.done(CLEAN)
    damage(house.workspace / "data" / "dataset.clean.bin")
    assert reason(house, CLEAN) == said == house.session().decide(CLEAN, SETTINGS).damage
    house.done(CLEAN)
    assert kept(house, CLEAN)


def test_big_outputs_are_hashed_like_small_ones(house):
    files = [house.write(f"data/{name}.bin", name * (5 << 20)) for name in "abc"]
    ledger = house.session()
    ledger.start(CLEAN, SETTINGS, "never run")
    ledger.finish(CLEAN, StepResult(Text(), files), seconds=0.0)
    assert kept(house, CLEAN)
    with open(files[1], "r+b") as file:
        file.seek(1 << 20)
        file.write(b"?")
    assert reason(house, CLEAN) == "data/b.bin changed (sha256 differs)"


def test_a_promised_output_that_is_not_there_is_no_finish(house):
    ledger = house.session()
    ledger.start(CLEAN, SETTINGS, "never run")
    with pytest.raises(FileNotFoundError):
        ledger.finish(CLEAN, StepResult(Text(), [house.workspace / "absent.bin"]), seconds=0.0)
    ledger.fail(CLEAN, "absent.bin was not written")
    assert "absent.bin was not written" in reason(house, CLEAN)


def test_an_output_outside_the_workspace_is_refused(house, tmp_path):
    (tmp_path / "elsewhere.txt").write_text("x")
    ledger = house.session()
    ledger.start(CLEAN, SETTINGS, "never run")
    with pytest.raises(ValueError, match="not under the workspace"):
        ledger.finish(CLEAN, StepResult(Text(), [tmp_path / "elsewhere.txt"]), seconds=0.0)


def test_a_workspace_reached_by_a_link_is_the_same_workspace(house, tmp_path):
    (tmp_path / "link").symlink_to(house.workspace)
    ledger = Ledger(house.marker_file(CLEAN).parent, tmp_path / "link", house.checkout)
    ledger.start(CLEAN, SETTINGS, "never run")
    house.write("out.txt", "x")
    ledger.finish(CLEAN, StepResult(Text(), [tmp_path / "link" / "out.txt"]), seconds=0.0)
    assert ledger.marker("dataset.clean").outputs[0].path == "out.txt"
    assert kept(house, CLEAN)


# Ends that are no result


def test_an_interrupted_step_runs_again_and_says_when_it_stopped(house):
    house.session().start(CLEAN, SETTINGS, "never run")
    assert re.fullmatch(r"interrupted at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", reason(house, CLEAN))
    assert reason(house, CLEAN, {"training": {"max_iters": 9, "seed": 1}}).endswith("; training.max_iters 2000 -> 9")


def test_the_time_of_an_interruption_is_the_last_sign_of_life(house, monkeypatch):
    ledger = house.session()
    ledger.start(CLEAN, SETTINGS, "never run")
    utime = os.utime
    monkeypatch.setattr("flows.ledger.markers.os.utime", lambda path: utime(path, (2_000_000_000, 2_000_000_000)))
    ledger.pulse()
    assert reason(house, CLEAN).startswith("interrupted at 2033-05-1")


def test_a_step_that_ends_before_its_start_is_recorded_is_as_it_was(house):
    ledger = house.done(CLEAN)
    ledger.fail(CLEAN, "stopped by a person")  # Ctrl-C between the decision and the record
    assert kept(house, CLEAN)


def test_a_failed_step_runs_again_and_says_why_it_failed(house):
    ledger = house.session()
    ledger.start(CLEAN, SETTINGS, "never run")
    remedy = Remedy("2026-11-20T23:43:17", "dataset.clean", "disk_full", "no space left", "waited for room")
    ledger.fail(CLEAN, "no space\nleft on device", seconds=2.0, remedies=[remedy])
    assert re.fullmatch(r"failed at [\d :-]{19}: no space left on device", reason(house, CLEAN))
    assert house.session().marker("dataset.clean").remedies == [remedy]
    assert ledger.facts(CLEAN.key) is None
    assert ledger.output_digest("dataset.clean") is None


def test_attempts_and_their_reasons_are_remembered(house):
    for _ in range(2):
        ledger = house.session()
        ledger.start(CLEAN, SETTINGS, ledger.decide(CLEAN, SETTINGS).reason)
    marker = house.done(CLEAN).marker("dataset.clean")
    assert marker.attempts == 3
    assert [attempt.ended for attempt in marker.history] == ["interrupted", "interrupted"]
    assert marker.history[0].reason == "never run"
    other = {"training": {"max_iters": 9, "seed": 1}}
    ledger = house.session()
    ledger.start(CLEAN, other, ledger.decide(CLEAN, other).reason)
    marker = ledger.marker("dataset.clean")
    assert (marker.attempts, marker.reason) == (1, "training.max_iters 2000 -> 9")
    assert last_finished(marker).settings == SETTINGS and last_finished(marker).outputs[0].size == 6
    house.session().start(CLEAN, other, "interrupted")
    assert last_finished(house.session().marker("dataset.clean")).settings == SETTINGS


def test_history_does_not_grow_without_end(house):
    for _ in range(30):
        house.session().start(CLEAN, SETTINGS, "interrupted")
    marker = house.session().marker("dataset.clean")
    assert marker.attempts == 30
    assert len(marker.history) == 20


# Damaged markers


def spoilt(marker: Marker, **fields) -> str:
    return json.dumps({**to_json(marker), **fields})


spoilings = pytest.mark.parametrize(
    "spoil",
    [
        lambda marker: "",
        lambda marker: spoilt(marker)[:-40],
        lambda marker: "[]",
        lambda marker: "null",
        lambda marker: "\x00" * 500,
        lambda marker: "[" * 100_000,
        lambda marker: spoilt(marker, state="done"),
        lambda marker: spoilt(marker, state=["finished"]),
        lambda marker: spoilt(marker, settings=[]),
        lambda marker: spoilt(marker, outputs=[{"path": "data/x"}]),
        lambda marker: spoilt(marker, outputs=None),
        lambda marker: spoilt(marker, code={"a": 1}),
        lambda marker: spoilt(marker, finished_at=5),
        lambda marker: spoilt(marker, step="another"),
        lambda marker: spoilt(marker, facts=[]),
        lambda marker: spoilt(marker, output_digest=""),
    ],
)


def spoil_both(house: House, step: StepSpec, broken: str) -> None:
    house.marker_file(step).write_text(broken)
    house.copy(step).write_text(broken)


@spoilings
def test_a_damaged_marker_is_put_back_from_its_copy(house, spoil):
    ledger = house.done(CLEAN)
    before, whole = ledger.marker("dataset.clean"), house.marker_file(CLEAN).read_bytes()
    broken = spoil(before)
    house.marker_file(CLEAN).write_text(broken)
    decision = house.session().decide(CLEAN, SETTINGS)
    assert decision.keep and decision.damage in decision.reason
    assert decision.damage.startswith("its marker is damaged (")
    assert house.session().marker("dataset.clean") == before
    house.session().mend(CLEAN)
    assert house.marker_file(CLEAN).read_bytes() == whole and house.set_aside(CLEAN).read_text() == broken
    decision = house.session().decide(CLEAN, SETTINGS)
    assert decision.keep and decision.damage is None


@spoilings
def test_a_marker_damaged_with_its_copy_is_set_aside_and_made_again(house, spoil):
    ledger = house.done(CLEAN)
    broken = spoil(ledger.marker("dataset.clean"))
    spoil_both(house, CLEAN, broken)
    assert reason(house, CLEAN).startswith("its marker is damaged (")
    assert house.session().marker("dataset.clean") is None
    house.done(CLEAN)
    assert kept(house, CLEAN)
    assert house.set_aside(CLEAN).read_text() == broken


@pytest.mark.parametrize("what", ["nothing", "a folder", "a dangling link"])
def test_where_no_marker_is_the_copy_is_believed(house, what):
    house.done(CLEAN)
    whole = house.marker_file(CLEAN).read_bytes()
    house.marker_file(CLEAN).unlink()
    if what == "a folder":
        (house.marker_file(CLEAN) / "within").mkdir(parents=True)
    elif what == "a dangling link":
        house.marker_file(CLEAN).symlink_to("nothing")
    decision = house.session().decide(CLEAN, SETTINGS)
    assert decision.keep and decision.damage.startswith("its marker is ")
    house.session().mend(CLEAN)
    assert house.marker_file(CLEAN).read_bytes() == whole


def test_a_marker_without_digest_is_an_older_one(house):
    house.done(CLEAN)
    marker = json.loads(house.marker_file(CLEAN).read_text())
    del marker["sha256"]
    spoil_both(house, CLEAN, json.dumps(marker))
    assert kept(house, CLEAN) and house.session().decide(CLEAN, SETTINGS).damage is None


def test_a_step_begun_again_has_no_copy_that_says_it_is_done(house):
    house.done(CLEAN)
    house.session().start(CLEAN, SETTINGS, "asked for (--redo)")
    house.marker_file(CLEAN).write_text("{half")
    assert reason(house, CLEAN).startswith("its marker is damaged (")


@pytest.mark.parametrize("damage", ["cut", "deleted", "a folder"])
def test_what_a_step_decided_is_put_back(house, damage):
    house.done(PLAN, text="2000 steps")
    plan = house.workspace / "data/configuration.plan.bin"
    plan.write_text("2000") if damage == "cut" else plan.unlink()
    if damage == "a folder":
        plan.mkdir()
    decision = house.session().decide(PLAN, SETTINGS)
    assert decision.keep and decision.damage.startswith("data/configuration.plan.bin is ")
    house.session().mend(PLAN)
    assert plan.read_text() == "2000 steps" and house.session().decide(PLAN, SETTINGS).damage is None


def test_a_step_whose_files_cannot_be_kept_twice_yet_is_not_done_and_can_be_finished_again(house):
    ledger = house.session()
    ledger.start(PLAN, SETTINGS, "never run")
    result = StepResult(Text(), [house.write("data/plan.yaml", "2000 steps")])
    in_the_way = house.write("state/default/copies/data", "a file where a folder belongs, as a full disk would be")
    with pytest.raises(OSError):
        ledger.finish(PLAN, result, seconds=1.0)
    assert not kept(house, PLAN)
    in_the_way.unlink()
    ledger.finish(PLAN, result, seconds=1.0)
    assert kept(house, PLAN)


def test_what_was_decided_and_its_copy_lost_is_decided_anew(house):
    house.done(PLAN)
    shutil.rmtree(house.copy(PLAN).parent / "data")
    (house.workspace / "data/configuration.plan.bin").write_text("to")
    assert reason(house, PLAN) == "data/configuration.plan.bin is 4 bytes short"


def test_step_names_are_file_names(house):
    with pytest.raises(ValueError, match="step name"):
        house.session().marker("../../etc/passwd")


KILLED = """
    import sys
    from pathlib import Path
    from flows.ledger.facts import Key, NoFacts
    from flows.ledger.ledger import Ledger
    from flows.ledger.steps import StepResult, StepSpec
    workspace = Path(sys.argv[1])
    step = StepSpec(key=Key("a", NoFacts), title="A")
    print("ready", flush=True)
    while True:
        ledger = Ledger(workspace / "markers", workspace, workspace)
        ledger.start(step, {"n": 1}, "never run")
        (workspace / "out").write_text("result")
        ledger.finish(step, StepResult(NoFacts(), [workspace / "out"]), 0.0)
"""


def test_markers_survive_kill_9_at_any_instant(tmp_path):
    killed = StepSpec(key=Key("a", NoFacts), title="A")
    for turn in range(4):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
        child = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE)
        child.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.013 * (turn + 1))
        child.kill()
        child.communicate()
        decision = Ledger(tmp_path / "markers", tmp_path, tmp_path).decide(killed, {"n": 1})
        assert "damaged" not in decision.reason
        if decision.keep:
            assert (tmp_path / "out").read_text() == "result"
