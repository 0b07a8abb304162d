"""The campaign's small form: its kinds of fault, each once on the real command, and three kills; and that its
verdict can be no. What other tests prove of a kind of fault is left to the full form (Kind.small).

Each kind is a test of its own, so that all of the suite's processes are busy; they share one set of templates.
"""

import ast
import importlib
import os
import time
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.faults import __main__ as command
from bench.faults import table
from bench.faults.__main__ import SMALL_KILLS, main
from bench.faults.kinds.catalogue import all_kinds
from bench.faults.kinds.damage import one_bit_flipped
from bench.faults.kinds.disk import on_a_small_disk
from bench.faults.kinds.processes import days_between
from bench.faults.series import aims
from bench.faults.series.kills import kill_series
from bench.faults.stage import injection
from bench.faults.stage.campaign import Campaign
from bench.faults.stage.finding import Finding, NotPossible, NotSurvived
from bench.faults.stage.kind import Kind, chosen
from bench.faults.stage.moments import (
    ANYWHERE,
    BETWEEN,
    FINISHED,
    OUTCOME,
    WHILE_IT_TRAINS,
    Step,
    Strike,
    finished_steps,
    moments_met,
    still_finished,
)
from bench.faults.stage.process import Result
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import Reference, Templates
from bench.faults.stage.verdict import judge, within_rounding
from flows.context.paths import CHECKOUT
from nanogpt import durable

# Those first that need no run stopped in the middle; of the others one before all, which makes it meanwhile.
KINDS = sorted(chosen(all_kinds(), None, small=True), key=lambda kind: kind.template == "half")
KINDS.insert(0, KINDS.pop())


@pytest.fixture(scope="session")
def campaign(tmp_path_factory) -> Campaign:
    """One folder of templates for all processes of the suite: the first that needs them makes them."""
    folder = tmp_path_factory.getbasetemp()
    return Campaign((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "campaign", small=True)


@pytest.mark.slow(first=True)  # the longest, and it makes the templates while the other processes do other tests
def test_a_run_survives_kills_at_random_moments(campaign):
    figures = kill_series(campaign, SMALL_KILLS, jobs=1)
    assert figures["survived"], figures["why"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.group}: {kind.name}")
def test_a_run_survives(campaign, kind):
    try:
        row = campaign.row(kind)
    except NotPossible as why:
        pytest.skip(str(why))
    assert row["survived"], row["why"]
    assert row["noticed"] and row["remedy"]


def _other_weights(scene: Scene) -> None:
    scene.reference = replace(scene.reference, final_sha256="0" * 64)


def _other_best_weights(scene: Scene) -> None:
    scene.reference = replace(scene.reference, best_sha256="0" * 64)


def _rotten_weights(scene: Scene) -> None:
    one_bit_flipped(scene.model / "final/model.safetensors")


def _a_step_twice(scene: Scene) -> None:
    lines = (scene.model / "metrics.jsonl").read_text().splitlines(keepends=True)
    (scene.model / "metrics.jsonl").write_text("".join([*lines[:6], *lines[5:]]))


def _a_step_left_out(scene: Scene) -> None:
    lines = (scene.model / "metrics.jsonl").read_text().splitlines(keepends=True)
    (scene.model / "metrics.jsonl").write_text("".join([*lines[:5], *lines[6:]]))


def _a_rotten_checkpoint(scene: Scene) -> None:
    (scene.newest_checkpoint() / "state.pt").write_bytes(b"")


def _an_unfinished_step(scene: Scene) -> None:
    marker = scene.markers / "deployment.export.json"
    note, _ = durable.read_note(marker)
    durable.write_note(marker, {**note, "state": "started"})


def _no_report(scene: Scene) -> None:
    (scene.workspace / "reports/default/training_report.md").unlink()


def _no_neighbour(scene: Scene) -> None:
    (scene.model.parents[1] / "neighbour/tiny/best/model.safetensors").unlink()


def _a_failed_start(scene: Scene) -> None:
    scene.results.append(Result(1, "", 0.0))


HARMS = {
    _other_weights: "the final weights are not those",
    _other_best_weights: "the best weights are not those",
    _rotten_weights: "training.tiny is called finished, and .* changed",
    _a_step_twice: r"twice \[\('train', 6\)\]",
    _a_step_left_out: r"missing \[\('train', 6\)\]",
    _a_rotten_checkpoint: "passes for a checkpoint",
    _an_unfinished_step: "deployment.export is started",
    _no_report: "documentation.report is called finished, and .* is missing",
    _no_neighbour: "neighbour/tiny/best passes for a checkpoint",
    _a_failed_start: "no start of the command ended well",
}


@pytest.mark.slow
def test_the_verdict_sees_every_harm(campaign):
    for harm, words in HARMS.items():
        with campaign.scene("whole", harm.__name__) as scene:
            scene.results.append(Result(0, "", 0.0))
            assert judge(scene, exact=True) == "same bytes"
            harm(scene)
            with pytest.raises(NotSurvived, match=words):
                judge(scene, exact=True)


@pytest.mark.slow
def test_a_loss_curve_beyond_rounding_is_no_survival(campaign):
    with campaign.scene("whole", "curve") as scene:
        scene.results.append(Result(0, "", 0.0))
        assert judge(scene, exact=False) == "loss curve within 0.0e+00"
        rows = [{**row, "loss": row["loss"] * 1.01} if "loss" in row else row for row in scene.reference.metrics]
        scene.reference = replace(scene.reference, metrics=rows)
        with pytest.raises(NotSurvived, match=r"differs by 0\.01"):
            judge(scene, exact=False)


@pytest.mark.fast
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_loss_that_is_no_number_is_no_survival(step):
    rows = [{"kind": "train", "step": number, "loss": 3.0} for number in (1, 2, 3)]
    mine = [{**row, "loss": None} if row["step"] == step else row for row in rows]
    scene = SimpleNamespace(metrics=lambda: mine, reference=Reference("", "", rows, {}))
    with pytest.raises(NotSurvived, match="differs by inf"):
        within_rounding(scene)


@pytest.mark.slow
def test_a_kind_that_is_not_survived_is_reported_and_its_run_is_kept(campaign):
    def nothing_is_said(scene: Scene) -> Finding:
        """Nothing."""
        scene.run()
        return Finding(scene.noticed("the moon fell down"), "")

    row = campaign.row(Kind("moon", "sky", nothing_is_said, template="whole"))
    assert not row["survived"] and "the moon fell down" in row["why"]
    kept = list((campaign.templates.folder / "scenes").glob("moon-*"))
    assert any((folder / "checkpoints").is_dir() for folder in kept)


def test_what_is_left_of_a_kind_on_a_small_disk_lies_where_it_was(tmp_path):
    scene = Scene(Templates(tmp_path), tmp_path / "workspace", Reference("", "", [], {}))
    scene.workspace.mkdir()
    (scene.workspace / "before").write_text("as it was")
    try:
        with pytest.raises(NotSurvived), on_a_small_disk(scene) as hog:
            (scene.workspace / "since then").write_text("to look at")
            hog.keep_full()
            raise NotSurvived
    except NotPossible as why:
        pytest.skip(str(why))
    assert not os.path.ismount(scene.workspace) and list(tmp_path.iterdir()) == [scene.workspace]
    assert sorted(path.name for path in scene.workspace.iterdir()) == ["before", "since then"]


TRAINED = "training.tiny"


class Struck:
    """A workspace as a kill leaves it, and which moments are read from it."""

    def __init__(self, folder: Path):
        self.scene = Scene(Templates(folder), folder / "workspace", Reference("", "", [], {}))
        self.now, self.cut_off = time.time(), frozenset()

    def marker(self, state: str, age: float) -> Path:
        started = time.strftime("%Y-%m-%d %H:%M:%S+00:00", time.gmtime(self.now - age))
        path = self.scene.markers / f"{TRAINED}.json"
        durable.write_json(path, {"step": TRAINED, "state": state, "started_at": started, "attempts": 1})
        return path

    def heartbeat(self, activity: str, age: float) -> None:
        durable.write_json(self.scene.model / "heartbeat", {"activity": activity, "time": self.now - age, "step": 7})

    def outcome(self, status: str) -> None:
        durable.write_json(self.scene.model / "outcome.json", {"status": status})

    def temporary(self, file: Path) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
        return file

    def met(self, trainer_lived: bool = True, later: float = 0.0) -> list[str]:
        steps = [Step("dataset.clean", 1.0), Step(TRAINED, 5.0)]
        strike = Strike(time.time() + later, self.now - 60, trainer_lived, frozenset(self.cut_off))
        return [moment for _, moment in moments_met(self.scene, steps, strike)]


@pytest.mark.fast
def test_a_kill_counts_for_the_moment_that_it_met(tmp_path):
    struck = Struck(tmp_path)
    assert struck.met() == [BETWEEN]
    struck.marker("started", age=30)
    struck.heartbeat("loading", age=1)
    assert struck.met() == [ANYWHERE]
    struck.heartbeat("training", age=90)
    assert struck.met() == [ANYWHERE], "a heartbeat of the start before"
    struck.heartbeat("training", age=1)
    assert struck.met() == [WHILE_IT_TRAINS, ANYWHERE]
    assert struck.met(trainer_lived=False) == [ANYWHERE]
    struck.outcome("failed")
    assert struck.met(trainer_lived=False) == [ANYWHERE]
    struck.outcome("finished")
    assert struck.met() == [OUTCOME, ANYWHERE]
    struck.marker("started", age=-30)
    assert OUTCOME not in struck.met(), "an outcome of the start before"
    struck.marker("finished", age=30)
    assert struck.met() == [FINISHED]
    assert struck.met(later=1.0) == [BETWEEN]


@pytest.mark.fast
def test_no_step_is_done_twice_but_a_report_that_tells_of_the_kill(tmp_path):
    scene = Struck(tmp_path).scene

    def marker(step: str, state: str, reason: str) -> None:
        durable.write_json(scene.markers / f"{step}.json", {"state": state, "reason": reason})

    def again(step: str, reason: str) -> dict:
        marker(step, "finished", "never run")
        before = finished_steps(scene)
        marker(step, "started", reason)
        return still_finished(scene, before)

    tells_of_it = "remedies.9 added (2026-11-21T10:45:21 interrupted)"
    assert again("documentation.report", tells_of_it) == {}
    for step, reason in (("documentation.report", "exports/a is missing"), ("documentation.figures", tells_of_it)):
        with pytest.raises(NotSurvived, match=f"done twice: {step}"):
            again(step, reason)


@pytest.mark.fast
def test_a_write_was_met_when_the_kill_cut_it_off(tmp_path):
    struck = Struck(tmp_path)
    struck.marker("started", age=30)
    writes = {
        "a marker is being written": struck.scene.markers / f".{TRAINED}.json.4711.tmp",
        "a checkpoint is being written": struck.scene.checkpoints / ".step-00000020.tmp",
        "the metrics are being rewritten": struck.scene.model / ".metrics.jsonl.4711.tmp",
        "another file is being written": struck.scene.workspace / "exports/.weights.gguf.4711.tmp",
    }
    for moment, path in writes.items():
        struck.temporary(path)
        assert moment not in struck.met(), "its writer lives"
        struck.cut_off = {path}
        assert struck.met()[0] == moment
        struck.cut_off = set()


@pytest.mark.fast
@pytest.mark.parametrize(("times", "jumps"), [
    ((5.0, 86406.0, -86390.0), [1, -2]), ((5.0, 6.0, 7.0), [0, 0]), ((5.0, 86406.0), []),
])  # fmt: skip
def test_a_calendar_jumped_when_the_rows_of_the_run_say_so(times, jumps):
    names = ("started", "cool-down", "finished")
    assert days_between([{"event": name, "time": at} for name, at in zip(names, times, strict=False)]) == jumps


SECONDS = "seconds from the restart to training again, worst"
AIM = "trains again within 15 s of each restart"


@pytest.mark.fast
@pytest.mark.parametrize(("seconds", "form", "code", "said"), [
    (14.9, "--kills=20", 0, "aim reached"), (15.1, "--kills=20", 1, "AIM MISSED"),
    (15.1, "--small", 0, "AIM MISSED"), (None, "--kills=1", 0, "aim not measured"),
])  # fmt: skip
def test_a_missed_aim_is_reported_and_is_exit_code_1_in_the_full_form(
    monkeypatch, capsys, tmp_path, seconds, form, code, said
):
    monkeypatch.setattr(command, "Campaign", lambda folder, small: SimpleNamespace(rows=lambda *_: [], tell=print))
    monkeypatch.setattr(command, "kill_series", lambda *_: {"survived": True, SECONDS: seconds})
    assert main(["--only", "kills", form, "--folder", str(tmp_path)]) == code
    printed = capsys.readouterr().out
    assert f"{said}: {AIM}" in printed and "1 of 1 survived" in printed


@pytest.mark.fast
def test_the_orchestrations_aim_is_missed_at_1_percent():
    figures = {share: aims.with_aim("overhead", {"orchestration, % of the run": share}) for share in (0.99, 1.0)}
    words = "orchestration is under 1 % of the run"
    assert figures[0.99][words] is True and figures[1.0][words] is False
    assert f"| {words} | no |" in table.render({"machine": "", "kinds": [], "overhead": figures[1.0]})


ROOMS = ["stage", "kinds", "series", ""]  # each may import those before it
FAULTS = CHECKOUT / "bench/faults"


@pytest.mark.fast
def test_imports_run_downward_and_in_no_circle():
    imported: dict[str, set[str]] = {}
    for file in (file for room in ROOMS for file in (FAULTS / room).glob("*.py")):
        module = ".".join(file.relative_to(CHECKOUT).with_suffix("").parts)
        found = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {f"{node.module}.{name.name}" for node in found for name in node.names} | {n.module for n in found}
        imported[module] = {name for name in names if (CHECKOUT / f"{name.replace('.', '/')}.py").is_file()}
        above = ROOMS[ROOMS.index("" if file.parent == FAULTS else file.parent.name) + 1 :]
        assert not [name for name in names if name.split(".")[:2] == ["bench", "faults"] and name.split(".")[2:3] in
                    [[room] for room in above]], module  # fmt: skip
    assert len(list(TopologicalSorter(imported).static_order())) >= len(imported)  # CycleError names a circle


@pytest.mark.fast
def test_what_faults_hold_on_to_in_the_product_is_there(monkeypatch):
    monkeypatch.syspath_prepend(str(injection.INJECTED))
    inject = importlib.import_module("inject")
    places = [*inject.BEFORE.values(), inject.UPDATE, inject.GRADIENTS, inject.WORKER]
    places += [(constant.module, constant.name) for constant in injection.CONSTANTS]
    places += [tuple(call.split(":")) for call in injection.WORKER_CALLS]
    for module, *names in places:
        owner = importlib.import_module(module)
        for name in names:
            assert hasattr(owner, name), f"{module} has no {'.'.join(names)}"
            owner = getattr(owner, name)


MISTAKES = [["--only", "no such kind"], ["--jobs", "0"], ["--kills", "-1"], ["--smal"]]


@pytest.mark.fast
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_persons_mistake_is_refused(mistake):
    with pytest.raises(SystemExit) as refused:
        main(mistake)
    assert refused.value.code == 2


@pytest.mark.fast
def test_the_table_is_made_from_the_json_and_all_that_is_in_it_was_survived():
    facts = durable.read_json(table.FACTS)
    assert table.MARKDOWN.read_text(encoding="utf-8") == table.render(facts)
    assert all(row["survived"] for row in facts["kinds"])
    for name in aims.AIMS:
        assert facts[name] == aims.with_aim(name, facts[name])
