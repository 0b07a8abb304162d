"""Each step declares the code that its result depends on: held against what its work imports.

The work is followed from name to name (tests/sources.py): from its function in flows/phases, into the library's
functions that a worker calls, the trainer's process and the examples. What it comes to is declared by the step, or is
listed here with the reason why an edit of it changes no result.
"""

import shutil
from pathlib import Path

import pytest

from flows import ablations
from flows.full_run import PHASES
from flows.ledger.code_digests import CodeDigests
from flows.runner.run import AnyStep, steps_of
from nanogpt.config import Config
from nanogpt.study.variants import CONTROL
from tests.sources import CHECKOUT, PACKAGES, Reach, modules

pytestmark = pytest.mark.fast

KNOWN = modules((*PACKAGES, "examples"))
STUDY = ablations.ablations.Study(Config(), [CONTROL], seeds=1, steps=None, tokens=ablations.CHARACTERS)
ALL = (*PHASES, *ablations.ablations.phases(STUDY))
STEPS = {step.name: step for text in ("in pieces", "first") for step in steps_of(ALL, ["micro"], text=text)}
TRAININGS = {"ablations.plan", "ablations.control-1"}  # with the trainer's own step
STARTED_AS_PROGRAMS = {"training.micro": ["nanogpt.training.child"],
                       "deployment.server": ["nanogpt.commands.serve"],
                       "deployment.examples": [name for name in KNOWN if name.startswith("examples.")]}  # fmt: skip
WHOLE_LIBRARY = "evaluation.tests"  # the suite: everything

CHANGES_NO_RESULT = {
    "flows.display": "it shows what happens",
    "flows.ledger": "it notes what was done, and compares; facts of another form are not read",
    "flows.context": "places, time and messages; what a person asked for counts by its value, in a step's settings",
    "flows.runner": "it decides whether and when a step runs",
    "flows.machine": "it decides where work runs and when it waits; the device that this comes to is among the facts",
    "nanogpt": "the version and variables of the environment",
    "nanogpt.config": "values, which count in a step's settings; where more is computed of them, the step declares it",
    "nanogpt.settings_file": "values, as above",
    "nanogpt.mistakes": "messages",
    "nanogpt.faults": "messages, and the names of faults",
    "nanogpt.spelling": "how names are written in messages",
    "nanogpt.units": "how figures are written; the report, which consists of them, declares it",
    "nanogpt.records": "facts as JSON; those of another form are not read",
    "nanogpt.results": "the form of facts; as above",
    "nanogpt.durable": "the bytes of a file are the caller's",
    "nanogpt.process": "work in a process of its own is the same work",
    "nanogpt.machine": "what the system answers; processor and torch are among the settings of what is proved on them",
    "nanogpt.native": "how a file of C is built; the file itself counts where it is declared",
    "nanogpt.allocator": "how memory is given back",
    "nanogpt.weights.reserve": "room on the disk",
}
OF_TRAINING = {  # more than the above: what a training may do otherwise and end with the same weights
    "flows.phases.training": "it starts the trainer and files what it left",
    "flows.planning": "what is planned is in the settings: the shape, the steps, the batch",
    "flows.supervision": "when a trainer starts again, and in which pieces a step fits; its samples stay the same",
    "flows.report": "the card in the model's folder",
    "nanogpt.plots": "the picture in the model's folder",
    "nanogpt.training.record": "what is written down while it trains",
    "nanogpt.inference": "samples, which are drawn with numbers of their own",
    "nanogpt.weights": "checkpoints give back the bytes that they were given; a run trains from scratch",
    "nanogpt.data": "ids are what the dataset's steps gave; which of them a step sees is declared (data_loader)",
    "nanogpt.tokenizers": "as above",
    "nanogpt.sources": "as above",
    "nanogpt.fit": "in which pieces a step fits",
    "nanogpt.measure": "as above",
    "nanogpt.cli": "the trainer's command line",
    "nanogpt.commands": "as above",
}
OF_DEVICE = {"flows.report.facts": "named as a type only: the report of phase 1 is written without it"}
OF_SYSTEM = {name: "how large a text is, for the disk that it asks for; nothing depends on that"
             for name in ("nanogpt.sources", "flows.planning.texts", "flows.planning.budget_shares")}  # fmt: skip
OF_PLANNING = {"flows.supervision.own_tests": "seconds set aside for them, of a time that differs with every start",
               "flows.supervision.model_files": "how a training that is there goes on, which its checkpoint says",
               "nanogpt.training.record": "named there",
               "nanogpt.sources": "what a text is, for a message"}  # fmt: skip
OF_PLAN = {**OF_PLANNING,
           **{f"nanogpt.{name}": "whether a training that is there goes on, which its folder says"
              for name in ("training.progress", "weights", "data.shards", "tokenizers")}}  # fmt: skip
OF_MEASURING = {**OF_PLANNING,
                "nanogpt.weights.folders": "by what the weights are known that a training began from",
                **{f"nanogpt.{name}": "what a pattern keeps a text to; the measured samples have none"
                   for name in ("tokenizers", "sources", "data.texts")}}  # fmt: skip
OF_REPORT = {f"nanogpt.{name}": "named in a command that a person types" for name in ("cli", "standard_streams")}
OF_SPEED = {"flows.planning.budget_shares": "for how long it is measured"}
OF_QUALITY = {"flows.planning.budget_shares": "whether there is time for it, which is in the settings"}
OF_SERVER = {"nanogpt.cli": "finds the command", "nanogpt.commands.arguments": "how words become values",
             "nanogpt.standard_streams": "how it prints",
             "nanogpt.sources": "where gpt2's vocabulary comes from; an export has its own"}  # fmt: skip
OF_COMPRESSION = {
    "flows.planning": "for how long, which is in the settings, and which shipped shape the student has",
    "nanogpt.training.record": "what is written down while it trains",
    "nanogpt.fit": "in which pieces a step fits",
    "nanogpt.measure": "how large the shipped models are, by which the student is chosen",
}
OF_ABLATION = {
    "flows.phases.dataset": "where the tokens are, which count by their digest",
    "nanogpt.training.record": "nothing is written down",
    "nanogpt.inference": "no samples are drawn",
    "nanogpt.weights": "nothing is saved or loaded",
    "nanogpt.data": "ids are what the dataset's steps gave; which of them a step sees is declared (data_loader)",
    "nanogpt.tokenizers": "as above",
    "nanogpt.sources": "as above",
    "nanogpt.fit": "in which pieces a step fits",
    "nanogpt.decoders": "as with samples",
    "nanogpt.evaluation": "as with samples",
}
OF_FIGURES = {f"nanogpt.{name}": "ids are what the dataset's steps gave" for name in ("data", "tokenizers", "sources")}
MORE = {"ablations.plan": OF_ABLATION, "ablations.control-1": OF_ABLATION, "ablations.kernels": OF_ABLATION,
        "deployment.server": OF_SERVER, "deployment.compression": OF_COMPRESSION,
        "training.micro": OF_TRAINING, "environment.device": OF_DEVICE, "environment.system": OF_SYSTEM,
        "configuration.measure": OF_MEASURING, "configuration.plan": OF_PLAN,
        "evaluation.speed": OF_SPEED, "evaluation.quality": OF_QUALITY, "documentation.report": OF_REPORT,
        "documentation.figures": OF_FIGURES}  # fmt: skip


def is_neutral(module: str, step: str) -> bool:
    rooms = CHANGES_NO_RESULT | MORE.get(step, {})
    return any(module == room or (room != "nanogpt" and module.startswith(f"{room}.")) for room in rooms)


def declared_files(step: AnyStep) -> dict[str, set[str]]:
    """The files that each pattern of a step stands for, as the ledger finds them."""
    digests = CodeDigests(CHECKOUT)
    return {pattern: {file.relative_to(CHECKOUT).as_posix() for file in digests._files(pattern)}
            for pattern in step.code}  # fmt: skip


def reached(step: AnyStep) -> set[str]:
    """The files that a step's work comes to; neutral ones are named, and not followed any further."""
    declared = set().union(*declared_files(step).values())
    reach = Reach(KNOWN, lambda module: is_neutral(module, step.name) and KNOWN[module].file not in declared)
    work = step.work
    names = work.__code__.co_names if work.__name__ == "<lambda>" else (work.__name__,)
    for name in names:
        if name in KNOWN[work.__module__].bindings:
            reach.add(work.__module__, name)
    for program in STARTED_AS_PROGRAMS.get(step.name, []):
        reach.add(program)
    return reach.files


@pytest.mark.parametrize("name", [name for name in STEPS if name != WHOLE_LIBRARY])
def test_a_step_declares_what_its_result_depends_on_and_no_more(name):
    step = STEPS[name]
    files, declared = reached(step), declared_files(step)

    def counts(file: str) -> bool:
        return not is_neutral(_module_of(file), name)

    missing = [file for file in sorted(files - set().union(*declared.values())) if counts(file)]
    assert missing == [], f"{name} comes to these: declare them in its `code`, or say why they do not matter"
    too_many = [pattern for pattern, found in declared.items() if not found & files and any(map(counts, found))]
    assert too_many == [], f"{name} does not come to these, which are in its `code`"


def _module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_the_librarys_tests_depend_on_the_whole_library():
    assert set(STEPS[WHOLE_LIBRARY].code) == {"nanogpt/**", "tests/nanogpt/**"}


@pytest.mark.parametrize("room", sorted(CHANGES_NO_RESULT | OF_TRAINING | OF_DEVICE))
def test_what_changes_no_result_exists(room):
    assert room in KNOWN or (CHECKOUT / room.replace(".", "/")).is_dir()


# What an edit does


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout in which an edit costs nobody anything."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (*PACKAGES, "templates", "examples", "tests"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def steps_with_other_code(checkout: Path, file: str) -> set[str]:
    """The steps whose code an edit of `file` changes."""
    before = {name: CodeDigests(checkout).before_work(step.code) for name, step in STEPS.items()}
    text = (checkout / file).read_text()
    (checkout / file).write_text(f"{text}\n# edited\n")
    found = {name for name, step in STEPS.items() if CodeDigests(checkout).changed(step.code, before[name])}
    (checkout / file).write_text(text)
    return found - {WHOLE_LIBRARY}


@pytest.mark.parametrize("file, steps", [
    ("flows/planning/forecast.py", {"configuration.survey", "configuration.plan", "configuration.measure",
                                    "documentation.report"}),
    ("flows/planning/planner.py", {"configuration.survey", "configuration.plan", "configuration.measure"}),
    ("nanogpt/corpus/tokenising.py", {"dataset.clean", "dataset.characters", "dataset.bpe"}),
    ("nanogpt/training/record/live_view.py", set()),
    ("nanogpt/training/record/tracking.py", set()),
    ("flows/supervision/recovery.py", set()),
    ("flows/display/terminal.py", set()),
    ("flows/runner/step_runner.py", set()),
    ("flows/cli/status.py", set()),
    ("nanogpt/commands/train.py", set()),
    ("nanogpt/training/update/optimizer.py", {"implementation.checks", "configuration.measure", "training.micro",
                                                  "deployment.compression", *TRAININGS}),
    ("nanogpt/data/data_loader.py", {"configuration.measure", "training.micro", "evaluation.models",
                                     "deployment.compression"}),
    ("nanogpt/evaluation/baselines.py", {"evaluation.baselines", "evaluation.samples", "evaluation.quality"}),
    ("nanogpt/plots/training.py", {"documentation.figures", "documentation.report"}),
    ("templates/training_report.md.j2", {"documentation.report"}),
    ("examples/complete.py", {"deployment.examples"}),
])  # fmt: skip
def test_an_edit_is_noticed_where_it_counts_and_only_there(checkout, file, steps):
    assert steps_with_other_code(checkout, file) == steps


@pytest.mark.parametrize("file", ["attention.py", "gpt.py", "norm.py", "feedforward.py", "positional.py"])
def test_an_edit_of_the_model_is_noticed_by_all_that_compute_with_it(checkout, file):
    computing = {"implementation.checks", "configuration.measure", "training.micro", "evaluation.models",
                 "evaluation.samples", "evaluation.speed", "evaluation.quality", "evaluation.study",
                 "deployment.export", "deployment.formats", "deployment.server", "deployment.compression",
                 "deployment.examples", *TRAININGS}  # fmt: skip
    assert steps_with_other_code(checkout, f"nanogpt/model/{file}") == computing
