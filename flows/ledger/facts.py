"""What each step leaves for later ones: a record a step, and the key by which it is read.

A key names a step and the type of its facts, so `run.facts(FETCHED)` is a FetchedText. Records of nanogpt.results are
kept as they are. A phase of somebody's own defines its keys and records where its steps are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from nanogpt.results.compression import CompressionTable
from nanogpt.results.evaluation import Baseline, DecodingSpeed, JudgedSamples, ModelFigures
from nanogpt.results.machine import ComponentCheck, DeviceProof
from nanogpt.results.quality import ScoreComparison, WritingQuality
from nanogpt.results.speed import Rehearsal
from nanogpt.results.study import ModelStudy
from nanogpt.results.text import TextStatistics, TokenSplit, TokenStatistics
from nanogpt.results.training import TrainingOutcome

F = TypeVar("F")


@dataclass(frozen=True)
class Key(Generic[F]):
    """A step by its name, and the type of the facts that it leaves."""

    step: str
    kind: type[F]


@dataclass(frozen=True)
class NoFacts:
    """Of a step whose files say all."""


# ---- 1 environment


@dataclass(frozen=True)
class Folders:
    folders: list[str]


@dataclass(frozen=True)
class SystemCheck:
    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    needed: str
    advice: str


@dataclass(frozen=True)
class System:
    python: str
    platform: str
    processor: str
    cores: int
    physical_cores: int
    memory_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    disk_needed_bytes: int
    checks: list[SystemCheck]


@dataclass(frozen=True)
class Packages:
    count: int
    packages: dict[str, str]
    file: str


# ---- 2 implementation


@dataclass(frozen=True)
class Checks:
    """The component checks, all passed, and the device that they settled on."""

    device: str
    passed: int
    failed: int
    checks: list[ComponentCheck]
    warning: str


# ---- 3 configuration


@dataclass(frozen=True)
class SurveyedText:
    """A text that could be learned from. `alphabet_size`: different characters, 0 where they are not known; `where` it
    would come from; `obstacle`: why it cannot be had, "" where it can; `in_pieces`: it is fetched and prepared so, and
    no more of it than is read."""

    name: str
    bytes: int
    where: str
    obstacle: str = ""
    in_pieces: bool = False
    first_bytes: int = 0  # of one that comes in pieces: so many are a small text of their own
    alphabet_size: int = 0
    bytes_per_character: float = 1.0
    licence: str | None = None


@dataclass(frozen=True)
class Surveyed:
    texts: list[SurveyedText]


@dataclass(frozen=True)
class MeasuredModel(Rehearsal):
    """The speed of a model, made smaller until it fitted: the passes that were measured."""

    batch_size: int
    gradient_accumulation: int
    gradient_checkpointing: bool
    longest_window: int | None
    micro_batch: int
    compiled: bool = False  # the speed is that of compiled steps
    compile_seconds: float = 0.0  # before the first of them
    compiling: str = ""  # why it is compiled or not, with the figures; "" where it was not tried


@dataclass(frozen=True)
class TextTokens:
    """The text that a plan chose, and what it is learned in; `vocabulary`: tokens of a BPE that is trained on it."""

    name: str
    tokenizer: str
    vocabulary: int


@dataclass(frozen=True)
class Measured:
    models: dict[str, MeasuredModel]
    unmeasured: dict[str, str]  # name -> why
    text: TextTokens | None = None  # None: it was fetched before the plan is made


@dataclass(frozen=True)
class PlannedModel:
    name: str
    parameters: int
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    tokenizer: str
    precision: str
    batch_size: int
    gradient_accumulation: int
    max_iters: int
    tokens: int
    seconds: float
    memory_bytes: int
    expected_bits_per_byte: float
    why: str
    pace: float = 1.0  # times the measured seconds that its steps are expected to take

    @property
    def steps(self) -> int:
        """That its time allows at the expected pace; `max_iters` may be more."""
        return self.tokens // (self.batch_size * self.gradient_accumulation * self.block_size)


@dataclass(frozen=True)
class LeftOut:
    name: str
    reason: str


@dataclass(frozen=True)
class PlannedText:
    """The text to learn from, of which `wanted_bytes` are fetched and prepared; `in_pieces`: in pieces."""

    tokens: TextTokens
    where: str
    why: str
    bytes: int
    wanted_bytes: int
    in_pieces: bool
    not_chosen: list[LeftOut]

    @property
    def name(self) -> str:
        return self.tokens.name


@dataclass(frozen=True)
class PlannedPhase:
    number: int
    title: str
    planned_seconds: float

    @property
    def name(self) -> str:
        return self.title.lower()

    @property
    def label(self) -> str:
        return f"{self.number} {self.title}"


@dataclass(frozen=True)
class Planned:
    budget_seconds: float
    ladder: list[PlannedModel]  # the models to train, smallest first
    left_out: list[LeftOut]
    phases: list[PlannedPhase]
    text: PlannedText | None = None  # None: it was fetched before the plan was made

    def model(self, name: str) -> PlannedModel:
        return next(model for model in self.ladder if model.name == name)

    def phase_seconds(self, name: str) -> float:
        return next((phase.planned_seconds for phase in self.phases if phase.name == name), 0.0)

    def forecast(self) -> dict[str, float]:
        """Seconds of each phase, by its label."""
        return {phase.label: phase.planned_seconds for phase in self.phases}

    def phases_after(self, name: str) -> list[PlannedPhase]:
        names = [phase.name for phase in self.phases]
        return self.phases[names.index(name) + 1 :] if name in names else []

    def seconds_after(self, name: str) -> float:
        """Planned for the phases after one of them."""
        return sum(phase.planned_seconds for phase in self.phases_after(name))


# ---- 4 dataset


@dataclass(frozen=True)
class FetchedText:
    source: str
    origin: str
    sha256: str
    bytes: int
    documents: int
    files: list[str]
    characters: int
    alphabet_size: int
    fallback_reason: str | None  # why it is another text, or less of it, than was asked for
    licence: str | None
    pieces: int = 0  # in which it was fetched; it is counted when it is cleaned


@dataclass(frozen=True)
class CleanedText(TextStatistics):
    alphabet_size: int


@dataclass(frozen=True)
class Tokenised(TokenStatistics):
    folder: str
    splits: dict[str, TokenSplit]


# ---- 5 training


@dataclass(frozen=True)
class Remedy:
    """A row of the report: a fault, what was done about it, and what that cost."""

    when: str
    step: str
    symptom: str
    evidence: str
    remedy: str
    outcome: str = ""
    cost_seconds: float = 0.0
    steps_lost: int = 0


@dataclass(frozen=True)
class Trained(TrainingOutcome):
    folder: str
    predicted_seconds: float
    expected_bits_per_byte: float
    remedies: list[Remedy]
    predicted_steps: int = 0  # 0: trained when plans did not say


# ---- 6 evaluation


@dataclass(frozen=True)
class Evaluated:
    best: str
    models: dict[str, ModelFigures]


@dataclass(frozen=True)
class Samples(JudgedSamples):
    model: str


@dataclass(frozen=True)
class Decoded(DecodingSpeed):
    model: str


@dataclass(frozen=True)
class Baselines:
    bits_per_byte: dict[str, float]
    explanations: dict[str, str]

    @classmethod
    def of(cls, rows: list[Baseline]) -> Baselines:
        return cls({row.name: row.bits_per_byte for row in rows}, {row.name: row.explanation for row in rows})


@dataclass(frozen=True)
class Tests:
    command: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    timed_out: bool
    tail: str
    not_run: str | None = None  # why they were not even begun
    surroundings: str = ""  # digest of what they ran with besides the code: packages, Python, processor
    taken_from: str = ""  # when they ran, where an earlier run of the workspace ran them

    @property
    def has_finished(self) -> bool:
        return not self.timed_out and self.not_run is None


@dataclass(frozen=True)
class Quality:
    """The models compared, with intervals, and the samples of the best one. `left_out`: why not, "" where it was done.

    `figures` are the names of files in the report's figures.
    """

    findings: list[str]
    figures: list[str]
    model: str
    comparison: ScoreComparison | None
    writing: list[WritingQuality]
    left_out: str = ""


@dataclass(frozen=True)
class Studied(ModelStudy):
    """What is to be seen in the best model. `left_out`: why the study was not made, "" where it was."""

    model: str
    left_out: str = ""


# ---- 7 deployment


@dataclass(frozen=True)
class ExportedFile:
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Exported:
    model: str
    folder: str
    files: list[ExportedFile]
    bytes: int


@dataclass(frozen=True)
class ExportedFormat:
    """The best model in one more form; `opens_in` names programs for people."""

    name: str
    opens_in: str
    folder: str
    files: list[ExportedFile]
    bytes: int


@dataclass(frozen=True)
class Formats:
    """The forms besides the Hugging Face folder; `refused`: name -> why that form cannot hold this model."""

    model: str
    formats: list[ExportedFormat]
    refused: dict[str, str]


@dataclass(frozen=True)
class Compressed:
    """Smaller and faster models made of the best one; `not_made`: why there are none, "" where there are."""

    model: str
    folder: str
    table: CompressionTable | None
    not_made: str = ""
    by_hand: str = ""  # the command that makes them


@dataclass(frozen=True)
class Served:
    """The server was started, talked to and stopped. Figures are the client's, HTTP and JSON included."""

    model: str
    command: str
    seconds_to_start: float
    seconds_to_first_token: float
    tokens_per_second: float  # of a whole completion, from the request on
    tokens: int
    prompt: str
    completion: str
    question: str
    reply: str
    seconds_to_end: float  # after SIGTERM
    backend: str = ""  # what computed


@dataclass(frozen=True)
class Example:
    name: str
    command: str
    exit_code: int
    seconds: float
    output: str


@dataclass(frozen=True)
class Examples:
    examples: list[Example]
    left_out: list[str] = field(default_factory=list)  # by a run that was late


# ---- 8 documentation


@dataclass(frozen=True)
class Criterion:
    """`met`: None is not known. What a run has no time for is no goal of it."""

    name: str
    met: bool | None
    evidence: str
    had_no_time: bool = False


@dataclass(frozen=True)
class Reported:
    criteria: list[Criterion] = field(default_factory=list)


FOLDERS = Key("environment.folders", Folders)
SYSTEM = Key("environment.system", System)
DEVICE = Key("environment.device", DeviceProof)
PACKAGES = Key("environment.packages", Packages)
CHECKS = Key("implementation.checks", Checks)
SURVEYED = Key("configuration.survey", Surveyed)
MEASURED = Key("configuration.measure", Measured)
PLANNED = Key("configuration.plan", Planned)
FETCHED = Key("dataset.fetch", FetchedText)
CLEANED = Key("dataset.clean", CleanedText)
CHARACTERS = Key("dataset.characters", Tokenised)
BYTE_PAIRS = Key("dataset.bpe", Tokenised)
EVALUATED = Key("evaluation.models", Evaluated)
SAMPLES = Key("evaluation.samples", Samples)
DECODED = Key("evaluation.speed", Decoded)
BASELINES = Key("evaluation.baselines", Baselines)
QUALITY = Key("evaluation.quality", Quality)
STUDIED = Key("evaluation.study", Studied)
TESTS = Key("evaluation.tests", Tests)
EXPORTED = Key("deployment.export", Exported)
FORMATS = Key("deployment.formats", Formats)
SERVED = Key("deployment.server", Served)
COMPRESSED = Key("deployment.compression", Compressed)
EXAMPLES = Key("deployment.examples", Examples)
FIGURES = Key("documentation.figures", NoFacts)
REPORTED = Key("documentation.report", Reported)


def trained(model: str) -> Key[Trained]:
    """The key of one model's training."""
    return Key(f"training.{model}", Trained)
