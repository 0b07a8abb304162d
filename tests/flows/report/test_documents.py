"""The documents of a run: whole, sure of their facts, and never broken by what data holds or what a phase left out."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from flows.context.command_words import PHASES
from flows.ledger.facts import (
    BASELINES,
    CHARACTERS,
    CLEANED,
    COMPRESSED,
    DEVICE,
    EVALUATED,
    EXAMPLES,
    FETCHED,
    FORMATS,
    PLANNED,
    SAMPLES,
    SERVED,
    SYSTEM,
    TESTS,
    Compressed,
    LeftOut,
    PlannedText,
    TextTokens,
    trained,
)
from flows.report import documents
from flows.report.facts import RunFacts
from flows.supervision import remedies
from nanogpt.records import from_json, to_json
from nanogpt.results.text import DocumentFates, FateCount, FindingCount
from tests.flows.report import report_facts
from tests.flows.report.report_facts import with_phase, with_step
from tests.nanogpt.watch_case import add_rows

pytestmark = [pytest.mark.fast, pytest.mark.xdist_group("documents")]

SECTIONS = [
    "The result",
    "What to do next",
    "The machine",
    "Component checks",
    "Data",
    "Plan",
    "Models",
    "Memory and speed",
    "Samples",
    "Compared with simple models",
    "How good the models are",
    "Inside the best model",
    "The project's own tests",
    "Export",
    "Smaller and faster models",
    "Served",
    "Examples",
    "What went wrong and was repaired",
    "Time",
    "What ran and what was kept",
    "Git commits",
    "Repeat this run",
]
BROKEN = "could not be written"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A complete run and its documents: (facts, figures, folder)."""
    folder = tmp_path_factory.mktemp("run")
    facts = report_facts.complete_facts(folder)
    figures = report_facts.draw_figures(facts, folder / "reports" / "figures")
    documents.render(facts, folder / "reports", figures)
    return facts, figures, folder / "reports"


def render(facts: RunFacts, folder: Path) -> tuple[str, str]:
    """The report without figures: (Markdown, HTML)."""
    documents.render(facts, folder, {})
    return (folder / "training_report.md").read_text(), (folder / "training_report.html").read_text()


def headings(markdown: str, level: str = "h2") -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    return [after.content for token, after in pairwise(tokens) if token.type == "heading_open" and token.tag == level]


class Page(HTMLParser):
    """The elements of a page, for questions about what is really in it."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def test_the_report_has_all_its_sections_and_none_is_broken(run):
    _, _, folder = run
    markdown = (folder / "training_report.md").read_text()
    assert headings(markdown) == SECTIONS
    for document in folder.glob("*.md"):
        assert BROKEN not in document.read_text(), document.name


def test_which_text_was_chosen_why_and_what_became_of_its_documents_stand_in_the_report(run, tmp_path):
    tokens = TextTokens("tinystories", "bpe", 4096)
    others = [LeftOut("fineweb_edu", "no connection")]
    text = PlannedText(tokens, "its public home", "7 h are best for 20 M parameters", bytes=1_911_420_483,
                       wanted_bytes=10**8, in_pieces=True, not_chosen=others)  # fmt: skip
    fates = DocumentFates({"kept": FateCount(900, 700_000), "near_duplicate": FateCount(41, 30_000, ["a/b.txt"])},
                          {"email": FindingCount(3, 4, ["a***@b***"]), "ip": FindingCount(1, 2)},
                          crossings=2)  # fmt: skip
    facts = with_step(run[0], FETCHED, source="tinystories", bytes=98_000_000, pieces=12)
    facts = with_step(with_step(facts, PLANNED, text=text), CLEANED, fates=fates)
    report, _ = render(facts, tmp_path)
    assert "**tinystories**, 93.5 MiB of 1.8 GiB, as much as the plan reads (2,119,719 short stories" in report
    assert "**Why this text:** 7 h are best for 20 M parameters. Not taken: fineweb_edu (no connection)." in report
    assert "| near duplicate | 41 | 30,000 | `a/b.txt` |" in report and "| kept | 900 | 700,000 |" in report
    assert "2 near duplicates were moved" in report
    findings = "- email: 4 in 3 documents, such as `a***@b***`\n- ip: 2 in 1 document\n"
    assert f"by its kind:\n\n{findings}\n" in report and "share none.\n\nPrivate data" in report


def test_tests_that_were_stopped_are_named_with_the_command_that_tries_again(run, tmp_path):
    facts = with_step(run[0], TESTS, passed=0, timed_out=True, seconds=600.0)
    report, _ = render(facts, tmp_path)
    assert "was stopped after 10 min" in report and "--redo evaluation.tests" in report and BROKEN not in report


def test_what_was_made_of_the_model_stands_in_the_report(run, tmp_path):
    report, _ = render(run[0], tmp_path)
    readme = (tmp_path / "README.md").read_text()
    assert "| GGUF | `exports/night/tiny-gguf` | 40.5 MiB | llama.cpp, Ollama |" in report
    assert "- mlx is left out: its head is not tied." in report
    assert "exports/night/tiny-gguf" in readme and "exports/night/tiny-smaller" in readme
    assert "| int8 | weights of 8 bits |" in report
    assert "+0.0010 (-0.0010 to +0.0030)" in report.replace("\\", "")
    assert "- For size: int8." in report and "- pruned is left out: nothing can go." in report
    assert "412 (as original)" in report
    assert "completion came after 21 ms" in report and "A gentleman." in report


def test_what_the_evaluation_found_stands_as_bullets_with_its_figures_and_a_step_that_failed_says_so(run, tmp_path):
    facts, figures, _ = run
    found = {
        "findings": ["tiny is | 2 % too sure", "no <b>clear</b> winner"],
        "figures": ["tiny-loss.svg", "not-drawn"],
    }
    phase = facts.phase("evaluation")
    failed = replace(phase.steps[0], name="evaluation.study", state="failed", reason="NaN logits in layer 2")
    facts = with_phase(facts, "evaluation", steps=[*phase.steps, failed])
    without_study = {name: known for name, known in facts.steps.items() if name != "evaluation.study"}
    documents.render(replace(facts, steps=without_study | {"evaluation.quality": found}), tmp_path, figures)
    report = (tmp_path / "training_report.md").read_text()
    quality = report.split("## How good the models are")[1].split("## ")[0]
    assert "- tiny is \\| 2 % too sure\n- no" in quality and "<b>" not in quality and "tiny-loss.svg" in quality
    assert "**Failed:** NaN logits in layer 2." in report.split("## Inside the best model")[1].split("## ")[0]
    late = {**found, "left_out": "the run was late"}
    documents.render(replace(facts, steps=facts.steps | {"evaluation.quality": late}), tmp_path, figures)
    assert (
        "## How good the models are\n\nLeft out: the run was late.\n" in (tmp_path / "training_report.md").read_text()
    )
    assert BROKEN not in report


def test_a_mixture_has_the_loss_of_each_of_its_texts(run, tmp_path):
    metrics = Path(run[0].model("tiny").folder) / "metrics.jsonl"
    before = metrics.read_text()
    rows = [{"kind": "train", "step": step, "loss_by_source": {"hf:a/b|c": 5 - step / 10, "x": 1.5 if step else None}}
            for step in range(20)]  # fmt: skip
    metrics.write_text(before + "".join(json.dumps(row) + "\n" for row in rows))
    report, _ = render(run[0], tmp_path)
    metrics.write_text(before)
    table = report.split("| Text of the mixture | Training loss at first | At the end |\n|:---|---:|---:|\n")[1]
    assert table.startswith("| hf:a/b\\|c | 4.9500 | 3.1500 |\n| x | 1.5000 | 1.5000 |\n\n")
    assert "Text of the mixture" not in render(run[0], tmp_path)[0]


def test_what_was_not_made_of_the_model_is_never_shown_as_made(run, tmp_path):
    not_made = Compressed("tiny", "", None, "a budget of 2 min leaves no time for it", "nanogpt compress a b")
    facts = replace(run[0], steps=run[0].steps | {COMPRESSED.step: to_json(not_made)})
    report, _ = render(facts, tmp_path)
    assert "Not made: a budget of 2 min leaves no time for it. By hand: `" in report and " compress a b`" in report
    assert "| int8 |" not in report
    phase = facts.phase("deployment")
    steps = [replace(step, state="failed", reason="port was taken") if step.name == SERVED.step else step
             for step in phase.steps]  # fmt: skip
    facts = with_phase(facts, "deployment", status="failed", cause="port was taken", steps=steps)
    left = {name: value for name, value in facts.steps.items() if name not in (SERVED.step, FORMATS.step)}
    report, _ = render(replace(facts, steps=left), tmp_path)
    served, forms = report.split("## Served")[1].split("## ")[0], report.split("### Other formats")[1].split("## ")[0]
    assert "**Failed:** port was taken." in served and "answered after" not in served
    assert "Hugging Face" in forms and "GGUF" not in forms and "Deployment, failed" in forms
    assert BROKEN not in report


def test_commands_with_a_hidden_password_say_that_it_has_to_be_typed(run, tmp_path):
    command = "python3 -m flows.full_run --set data.mirror=https://***@host/a"
    documents.render(replace(run[0], command=command), tmp_path, {})
    for name in ("training_report.md", "README.md", "troubleshooting.md"):
        assert "# type the password in place of ***: it is not kept" in (tmp_path / name).read_text(), name


def test_every_document_is_written_and_named(run):
    facts, figures, folder = run
    written = [path.name for path in documents.render(facts, folder, figures)]
    assert written == [
        "training_report.md",
        "training_report.html",
        "README.md",
        "troubleshooting.md",
        "system_report.md",
    ]
    assert all((folder / name).exists() for name in written)


def test_the_page_holds_each_figure_once_and_loads_nothing(run):
    _, figures, folder = run
    elements = Page((folder / "training_report.html").read_text()).elements
    sources = [attributes["src"] for tag, attributes in elements if tag == "img"]
    assert len(sources) == len(figures)
    assert len(set(sources)) == len(figures)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not {"link", "iframe"} & {tag for tag, _ in elements}
    assert not any("src" in attributes for tag, attributes in elements if tag == "script")


def test_a_table_ends_where_its_rows_do(run):
    """Text right behind a table is one more row of it to Markdown."""
    for document in run[2].glob("*.md"):
        for line, after in pairwise(document.read_text().splitlines()):
            assert not line.startswith("|") or after.startswith("|") or not after.strip(), (document.name, after)


def test_wide_tables_are_cards_on_a_phone_and_each_cell_knows_its_column(run, tmp_path):
    long_word = replace(run[0].remedies[0], evidence="/a/path/without/a/blank" * 20)
    facts = replace(run[0], remedies=[long_word])
    elements = Page(render(facts, tmp_path)[1]).elements
    kinds = {attributes.get("class") for tag, attributes in elements if tag == "table"}
    assert kinds == {None, "many", "wordy"}
    labels = [attributes["data-label"] for tag, attributes in elements if tag == "td"]
    assert {"Layers × heads × width", "What happened", "Cost"} <= set(labels)
    (long,) = (attributes for tag, attributes in elements if tag == "td" and attributes.get("class") == "long")
    assert long["data-label"] == "What happened"


def test_the_markdown_names_its_figures_by_paths_that_exist(run):
    _, figures, folder = run
    paths = re.findall(r"!\[[^]]*\]\(<([^>]+)>\)", (folder / "training_report.md").read_text())
    assert sorted(paths) == sorted(f"figures/{path.name}" for path in figures.values())


def test_no_line_ends_within_an_option_of_a_command(run):
    page = (run[2] / "training_report.html").read_text()
    codes = re.findall("<code.*?</code>", page, re.DOTALL)
    assert '<span class="option">--budget</span> 10m' in "".join(codes)
    assert not [code for code in codes if re.search(r"(?<!>)--(budget|set|run|workspace)\b", code)]


def test_the_same_facts_give_the_same_bytes(run):
    facts, figures, folder = run
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    documents.render(from_json(RunFacts, json.loads(json.dumps(to_json(facts)))), folder, figures)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before


def test_on_nanogpts_measure_a_model_stands_next_to_what_nanogpt_reaches(run, tmp_path):
    models = {name: replace(scores, nanogpt_loss=1.71238) for name, scores in run[0].of(EVALUATED).models.items()}
    report, _ = render(with_step(run[0], EVALUATED, models=models), tmp_path)
    [known] = re.findall("^.*README recipe for CPUs ends at .*$", report, re.MULTILINE)
    assert "ends at **1.8857** after 1 min 41 s (2,000 steps of 0.80 M parameters, on two cores" in known
    assert "windows of 64, the last tenth" in known and "- tiny: **1.7124**" in report


def test_each_planned_time_stands_next_to_what_it_took(run):
    _, _, folder = run
    markdown = (folder / "training_report.md").read_text()
    assert "| 7 min 10 s | 6 min 38 s | −7 % |" in markdown  # tiny
    assert "| 40.0 s | 44.5 s | +11 % |" in markdown  # evaluation


def test_the_newest_samples_of_a_training_are_shown_at_each_temperature(run):
    _, _, folder = run
    markdown = (folder / "training_report.md").read_text()
    assert markdown.index("step 420 at 0.6") < markdown.index("step 420 at 1.0")
    assert "| 210 | 1.884 | 0.16 M | step 210 at 0.6 / ROMEO: / Why" in markdown  # how it changed: one line
    assert "step 210 at 1.0" not in markdown


def test_a_sample_stands_next_to_the_loss_of_its_time(tmp_path):
    """It is written shortly before or after an evaluation."""
    add_rows(tmp_path / "metrics.jsonl", *(
        {"kind": kind, "step": step, "tokens": 100 * step, "val_loss": 3 - step / 100}
        for step in (50, 100) for kind in ("train", "eval")
    ))  # fmt: skip
    add_rows(tmp_path / "samples.jsonl", *({"step": step, "temperature": 0.8, "text": "To be"} for step in (99, 100)))
    rows = documents._samples_over_time({"folder": str(tmp_path)})
    assert [(row["step"], row["val_loss"], row["tokens"]) for row in rows] == [(99, 2.0, 9900), (100, 2.0, 10_000)]


def test_the_best_models_figures_stand_in_the_first_part(run):
    _, _, folder = run
    result = (folder / "training_report.md").read_text().split("## The result")[1].split("## ")[0]
    assert "**tiny** is the best of 2 trained models" in result
    assert "**2.236**" in result and "1.5500" in result


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_without_figures_is_named_with_cause_and_next_command(run, name, tmp_path):
    facts = report_facts.without_phase(run[0], name)
    markdown, _ = render(facts, tmp_path)
    assert headings(markdown) == SECTIONS
    assert BROKEN not in markdown
    phase = facts.phase(name)
    assert rf"**Phase {phase.number} {phase.title} failed:** {name} broke \| here. Next: " in markdown
    assert f"`{facts.command}`" in markdown


def test_a_failed_training_shows_the_model_that_is_there_and_the_one_that_is_not(tmp_path):
    facts = report_facts.failed_facts(tmp_path)
    markdown, _ = render(facts, tmp_path / "reports")
    assert "**micro** is the only trained model" in markdown
    assert "**tiny was not finished:**" in markdown
    assert "**Not run:** 7 Deployment." in markdown
    assert "--set device.type=cpu" in markdown


def test_a_run_that_failed_at_once_has_all_documents(tmp_path):
    markdown, _ = render(report_facts.bare_facts(), tmp_path)
    assert headings(markdown) == SECTIONS
    assert "No model was trained." in markdown
    for path in tmp_path.glob("*.md"):
        assert BROKEN not in path.read_text()


def test_a_model_that_stays_as_it_is_stands_in_the_plan_with_what_it_was_planned_for(run, tmp_path):
    """The plan before trained it; what this one would have given it says nothing."""
    kept = report_facts.with_step(run[0], trained("micro"), predicted_steps=1600, predicted_seconds=31.0, seconds=31.0)
    row = next(line for line in render(kept, tmp_path)[0].splitlines() if line.startswith("| micro | 0.80 M | 4 ×"))
    assert "| 12 × 1 | 1,600 | 1.23 M |" in row and row.endswith("| 31.0 s | 31.0 s | 0 % |")


def test_facts_of_another_shape_cost_their_part_alone(run, tmp_path):
    steps = {name: dict(value) for name, value in run[0].steps.items()}
    del steps[FETCHED.step]["sha256"]
    steps[BASELINES.step]["bits_per_byte"] = {"uniform": "not a number"}
    markdown, _ = render(replace(run[0], steps=steps), tmp_path)
    assert "part could not be written" in markdown
    assert "sha256" in markdown.split("## Plan")[0].split("## Data")[1]
    assert headings(markdown)[5:9] == SECTIONS[5:9]


def test_a_hostile_text_cannot_leave_its_place(run, tmp_path):
    hostile, facts = report_facts.HOSTILE, run[0]
    samples = [replace(sample, text=hostile) for sample in facts.of(SAMPLES).samples]
    first, *others = facts.of(EXAMPLES).examples
    example = replace(first, output=hostile, name=hostile, command=hostile)
    facts = with_step(facts, SAMPLES, samples=samples)
    facts = with_step(facts, EXAMPLES, examples=[example, *others])
    facts = with_step(facts, FETCHED, source=hostile, origin=hostile)
    facts = with_step(facts, CHARACTERS, most_frequent=[(hostile, 1), ("`", 1), ("|", 1)])
    fetch, *rest = facts.phase("dataset").steps
    facts = with_phase(facts, "dataset", steps=[replace(fetch, reason=hostile), *rest])
    facts = replace(
        with_phase(facts, "configuration", status="failed", cause=hostile),
        remedies=[replace(facts.remedies[0], evidence=hostile, symptom=hostile)],
        milestones=[replace(facts.milestones[0], title=hostile), *facts.milestones[1:]],
    )
    markdown, html = render(facts, tmp_path)
    page = Page(html)
    assert BROKEN not in markdown
    assert headings(markdown) == SECTIONS
    assert not {"b", "iframe"} & page.tags()
    assert [tag for tag, _ in page.elements].count("script") == 2  # the page's own: curves, and what shows them
    assert "{{ facts.run }} {% raw %}" in html  # shown, not run
    plain = (run[2] / "training_report.html").read_text()
    assert table_widths(html) == table_widths(plain)  # no bar made a cell more or less


def table_widths(html: str) -> set[int]:
    return {row.count("<td") for row in re.findall(r"<tr>(.*?)</tr>", html, flags=re.DOTALL)}


def test_the_system_report_is_written_from_the_first_steps_alone(run, tmp_path):
    path = tmp_path / "system_report.md"
    text = documents.render_system_report(run[0].of(SYSTEM), run[0].of(DEVICE), path).read_text()
    assert "**This machine can run this plan**, with a warning." in text and BROKEN not in text


def test_the_readme_says_how_to_use_the_model_where_it_is(run):
    text = (run[2] / "README.md").read_text()
    for command in ("chat", "generate", "serve"):
        assert f"nanogpt {command} /home/ada/nanogpt-autopilot/exports/night/tiny" in text
    assert "from_pretrained" in text


def test_the_readme_names_a_model_in_the_checkout_as_it_is_typed_there(run, tmp_path):
    render(replace(run[0], workspace=str(documents.CHECKOUT)), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "nanogpt chat exports/night/tiny\n" in text


def test_examples_that_a_late_run_left_out_are_named(run, tmp_path):
    report, _ = render(with_step(run[0], EXAMPLES, left_out=["chat_bot"]), tmp_path)
    assert "The run was late, so these were left out: `chat_bot`." in report


def test_troubleshooting_marks_what_happened_here(run):
    text = (run[2] / "troubleshooting.md").read_text()
    assert "### Out of memory (happened in this run)" in text
    assert "### Device\n" in text


def test_every_symptom_that_a_run_can_name_has_its_section_with_the_words_of_the_table(run, tmp_path):
    named = "\n".join(path.read_text() for path in (documents.TEMPLATES.parent / "flows").rglob("*.py"))
    found = re.findall(r'\.record\(\s*[^,()]+, "(\w+)"|^SYMPTOM = "(\w+)"', named, re.MULTILINE)
    symptoms = {"".join(pair) for pair in found} | remedies.TABLE.keys()
    symptoms |= {symptom for symptom, _ in remedies.MENDED_BY_THE_TRAINER.values()}
    assert {"hangup", "interrupted", "download", "disk_full"} <= symptoms
    rows = [replace(run[0].remedies[0], symptom=symptom) for symptom in symptoms]
    render(replace(run[0], remedies=rows), tmp_path)
    text = (tmp_path / "troubleshooting.md").read_text()
    assert text.count("(happened in this run)") == len(symptoms) and BROKEN not in text
    read = html.unescape(re.sub("<[^>]+>", "", MarkdownIt("commonmark").render(text)))
    assert all(row.in_order in read and row.recognised in read for row in remedies.TABLE.values())


@pytest.mark.parametrize("charge, words", [(20.0, "saves below 20 % on battery"), (7.5, "saves below 7.5 %"),
                                          (0.0, "does nothing in this run")])  # fmt: skip
def test_the_charge_that_is_named_is_the_runs(run, tmp_path, charge, words):
    render(replace(run[0], min_charge=charge), tmp_path)
    troubleshooting = (tmp_path / "troubleshooting.md").read_text()
    assert words in troubleshooting and BROKEN not in troubleshooting
