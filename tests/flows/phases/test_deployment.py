"""The best model, really exported: with one card in all places, and nothing of this machine in what may be shared."""

import json
import shutil
from pathlib import Path

import pytest

from flows.context.paths import CHECKOUT
from flows.ledger.facts import (
    BASELINES,
    CHARACTERS,
    CHECKS,
    CLEANED,
    COMPRESSED,
    EVALUATED,
    EXPORTED,
    FETCHED,
    FORMATS,
    PLANNED,
    SAMPLES,
    SERVED,
    Example,
    trained,
)
from flows.ledger.steps import StepResult
from flows.phases import deployment, documentation
from flows.planning import budget_shares
from flows.report.facts import collect
from flows.runner.run import Run
from nanogpt import cli
from nanogpt.config import save_config
from nanogpt.export import front_matter
from nanogpt.inference.engine import Engine
from nanogpt.training.trainer import train
from tests.flows.real_run import finish_now, real_run
from tests.nanogpt.training_case import TEXT, make_data, tiny
from tests.not_a_file import KINDS

pytestmark = pytest.mark.slow
NEEDS = (FETCHED, CLEANED, CHARACTERS, PLANNED, trained("micro"), trained("tiny"), EVALUATED, SAMPLES, BASELINES)


@pytest.fixture
def run(tmp_path):
    """A run whose models are trained and judged; tiny, the best, has real weights."""
    run = real_run(tmp_path / "workspace-of-ada")
    finish_now(run, *NEEDS)
    for name in ("micro", "tiny"):
        save_config(tiny().with_changes({"name": name, "data.tokenizer": "char"}), run.paths.config(name))
    data = make_data(tmp_path / "data", TEXT)
    train(tiny(max_iters=20, eval_interval=10), data, run.paths.model("tiny"))
    yield run
    run.worker.close(kill=True)


def cards(run: Run) -> dict[str, bytes]:
    places = {
        "training": run.paths.model("tiny") / "README.md",
        "export": run.paths.exports / "best/README.md",
        "report": run.paths.reports / "model_card-tiny.md",
        "state": run.paths.state / "model_card.md",
    }
    return {place: file.read_bytes() for place, file in places.items()}


def test_the_card_has_the_same_bytes_in_all_places_before_and_after_the_report(run, tmp_path):
    run.paths.model("micro").mkdir()
    deployment.export(run)
    written = cards(run)
    assert len(set(written.values())) == 1 and b"# tiny\n" in written["export"]
    assert (run.paths.model("micro") / "README.md").read_bytes() == (
        run.paths.reports / "model_card-micro.md"
    ).read_bytes()
    run.run_phase(documentation.PHASE)
    assert run.phase_runner.record("documentation").status == "done"
    assert cards(run) == written
    assert cli.main(["export", str(run.paths.model("tiny")), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/README.md").read_bytes() == written["export"]
    assert front_matter.read_mark(tmp_path / "again").model == "tiny"


def test_no_file_of_the_export_names_a_place_of_this_machine(run):
    deployment.export(run)
    folder = run.paths.exports / "best"
    for file in [*folder.iterdir(), run.paths.model("tiny") / "README.md"]:
        for place in (run.paths.workspace, run.paths.workspace.parent, CHECKOUT):
            assert str(place).encode() not in file.read_bytes(), file
        assert b"workspace-of-ada" not in file.read_bytes(), file
    assert Engine.from_folder(folder).complete("the ", max_new_tokens=5)


def test_a_card_that_is_damaged_or_out_of_date_is_written_again(run):
    deployment.export(run)
    whole = cards(run)
    step = run.step(EXPORTED)
    assert run.ledger.decide(step, step.settings(run)).keep
    (run.paths.state / "model_card.md").write_text("rotten")
    assert "model_card.md" in run.ledger.decide(step, step.settings(run)).damage
    deployment.export(run)
    assert cards(run) == whole
    (run.paths.model("tiny") / "README.md").write_text("of another training, or rotten")
    assert run.ledger.decide(step, step.settings(run)).keep, "a training that ran again has damaged nothing"
    deployment.export(run)
    assert cards(run) == whole
    assert "tiny/README.md was not the model's whole card" in (run.paths.logs / "automation_log.txt").read_text()
    for put in KINDS.values():
        (run.paths.model("tiny") / "README.md").unlink()
        put(run.paths.model("tiny") / "README.md")
        deployment.export(run)
        assert cards(run) == whole
    spec, baselines = run.step(BASELINES), run.facts(BASELINES)
    run.ledger.start(spec, {}, "asked for")
    run.ledger.finish(spec, StepResult(type(baselines)({**baselines.bits_per_byte, "5-gram": 1.0}, {})), 1.0)
    decision = run.ledger.decide(step, step.settings(run))
    assert not decision.keep and "evaluation.baselines" in decision.reason
    deployment.export(run)
    assert b"tiny is undertrained" in cards(run)["training"]


def test_an_export_of_which_a_file_is_gone_or_replaced_is_made_again(run):
    deployment.export(run)
    folder = run.paths.exports / "best"
    whole = _content(folder)
    for name in ("generation_config.json", "config.json", "model.safetensors"):
        for put in (None, *KINDS.values()):
            (folder / name).unlink()
            if put:
                put(folder / name)
            deployment.export(run)
            assert _content(folder) == whole, name


def test_what_is_no_export_in_its_place_is_set_aside(run):
    folder = run.paths.exports / "best"
    folder.parent.mkdir(parents=True)
    for times, put in enumerate([*KINDS.values(), Path.touch], 1):
        put(folder)
        deployment.export(run)
        assert (folder / "model.safetensors").is_file() and not folder.is_symlink()
        assert len(list(folder.parent.glob("best.*"))) == 1
        assert (run.paths.logs / "automation_log.txt").read_text().count("was no export") == times
        for place in folder.parent.iterdir():
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()


def test_the_other_forms_stand_next_to_the_export_and_the_model_answers_over_http(run):
    deployment.export(run)
    formats = run.do(FORMATS)
    assert {"gguf", "mlx"} <= {form.name for form in formats.formats} | formats.refused.keys()
    for form in formats.formats:
        folder = run.paths.workspace / form.folder
        assert folder.name == f"best-{form.name}" and folder.parent == run.paths.exports
        assert form.bytes == sum(file.bytes for file in form.files) == sum(f.stat().st_size for f in folder.iterdir())
    served = run.do(SERVED)
    assert served.completion and served.tokens_per_second > 0 and served.seconds_to_first_token > 0
    assert "float32" in served.backend
    assert "POST /v1/chat/completions 200" in (run.paths.logs / "server.log").read_text()


def test_smaller_models_are_made_of_the_export_where_the_budget_has_time_for_them(run, monkeypatch):
    deployment.export(run)
    monkeypatch.setattr(budget_shares, "compression_seconds", lambda budget: 0.0)
    left_out = run.do(COMPRESSED)
    assert left_out.table is None and "leaves no time" in left_out.not_made
    assert left_out.by_hand.startswith("nanogpt compress ") and "/char --out " in left_out.by_hand
    assert not (run.paths.exports / "best-smaller").exists()
    monkeypatch.setattr(budget_shares, "compression_seconds", lambda budget: 5.0)
    shutil.copytree(run.paths.workspace.parent / "data/char", run.paths.data / "char")
    finish_now(run, CHECKS)
    table = run.do(COMPRESSED).table  # other seconds: made now
    assert [row.name for row in table.models] == ["original", "int8", "int4", "sparse", "pruned", "distilled"]
    assert table.models[1].bytes < table.original.bytes and table.recommendation
    assert Engine.from_folder(run.paths.exports / "best-smaller/pruned").complete("the ", max_new_tokens=5)


def test_an_example_may_write_any_character_whatever_the_encoding_of_the_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(deployment, "CHECKOUT", tmp_path)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    (tmp_path / "examples").mkdir()
    script = tmp_path / "examples" / "write.py"
    script.write_text('print("caf\u00e9 \ufffd")', encoding="utf-8")
    shown = deployment._run_example(script, tmp_path / "model")
    assert (shown.exit_code, shown.output) == (0, "caf\u00e9 \ufffd")


def test_what_fails_is_shown_as_failed_and_stops_nothing_else(run, monkeypatch):
    def broken(*_):
        raise RuntimeError("nanogpt serve: ended with code 3")

    monkeypatch.setattr("flows.supervision.server_trial.serve_and_talk", broken)
    example = Example("complete", "python3 examples/complete.py", 0, 0.1, "a text")
    monkeypatch.setattr(deployment, "_run_example", lambda script, model: example)
    monkeypatch.setattr(budget_shares, "compression_seconds", lambda budget: 0.0)
    run.run_phase(deployment.PHASE)
    record = run.phase_runner.record("deployment")
    assert record.status == "failed" and "code 3" in record.cause
    states = {step.name: step.state for step in run.step_runner.records("deployment")}
    assert states.pop(SERVED.step) == "failed" and states.pop(COMPRESSED.step) == "left out"
    assert set(states.values()) == {"done"} and len(states) == 3
    run.run_phase(documentation.PHASE)
    report = (run.paths.reports / "training_report.md").read_text()
    assert "✘\N{NO-BREAK SPACE}The model can be used" in report
    assert "**Failed:** nanogpt serve: ended with code 3." in report.split("## Served")[1].split("## ")[0]


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".bad"}


def test_without_a_deployment_the_report_has_cards_all_the_same(run):
    shutil.rmtree(run.paths.exports, ignore_errors=True)
    run.run_phase(documentation.PHASE)
    report = (run.paths.reports / "model_card-tiny.md").read_bytes()
    assert report == (run.paths.model("tiny") / "README.md").read_bytes() and b"2.236" in report
    outputs = json.loads((run.paths.markers / "documentation.report.json").read_text())["outputs"]
    assert any(output["path"].endswith("model_card-tiny.md") for output in outputs)
    assert collect(run).models
