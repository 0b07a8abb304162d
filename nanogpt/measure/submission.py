"""What `nanogpt profile --submit` writes: how fast one machine trains, each way that this library can compute a step.

One JSON file that its owner can send. It says nothing of the owner: no name, no path, no host, no time. Nothing here
imports torch, so that a file is read at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.markdown import inline
from nanogpt.records import from_json, to_json
from nanogpt.units import percent

FORMAT, VERSION = "nanogpt-profile", 1
MOST_BYTES = 2**20

Text = Annotated[str, Field(max_length=200)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Device = Literal["cpu", "mps", "cuda"]
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class SubmittedMachine:
    """What was measured on. `gpu` is "" where the processor computes; its cores are known on a Mac."""

    processor: Text
    cores: Count  # physical
    gpu: Text
    gpu_cores: Count | None
    memory_bytes: Count
    system: Text  # such as "macOS 15.3.1"
    architecture: Text
    python: Text
    torch: Text
    nanogpt: Text
    device: Device

    @property
    def chip(self) -> str:
        """Such as "Apple M4, 10 GPU cores, 24 GB"."""
        gpu = f", {self.gpu_cores} GPU cores" if self.gpu_cores else f", {self.gpu}" if self.gpu else ""
        return f"{self.processor}{gpu}, {self.memory_bytes / 2**30:.0f} GB"


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    precision: Precision = "float32"
    newton_schulz: Precision = "float32"
    attention: Literal["sdpa", "products"] = "sdpa"
    compiled: bool = False

    def __str__(self) -> str:
        parts = [self.precision, self.attention, f"Newton-Schulz {self.newton_schulz}"]
        return ", ".join(parts + ["compiled"] * self.compiled)


@dataclass(frozen=True)
class PrecisionFigures:
    """A precision on its own. `failed`: why there are none; "" where they were measured."""

    precision: Precision
    product_flops: Amount | None = None  # FLOP/s of products of 1,024 x 1,024
    newton_schulz_ms: Amount | None = None  # of 8 matrices of 512 x 1,408
    causal_error: Amount | None = None  # relative, of torch's attention without gradients: pytorch #195910
    failed: Text = ""


@dataclass(frozen=True)
class StepFigures:
    """One model, one way. `ms`: of each part of a step, the device waited for around each; `step_ms` without that."""

    model: Text
    parameters: Count
    block_size: Count
    micro_batch: Count
    passes: Count  # of micro-batches in a step
    way: Way
    threads: Count | None = None  # of a CPU
    ms: dict[Text, Amount] = field(default_factory=dict)
    step_ms: Amount | None = None
    tokens_per_second: Amount | None = None
    share_of_products: Amount | None = None  # of plain matrix products in the same precision
    peak_memory_bytes: Count | None = None
    first_step_seconds: Amount | None = None  # compiled: of its first pass, with the compilation
    loss_off: Amount | None = None  # relative, from the CPU in float32 (compiled: from the same way in eager mode)
    gradient_off: Amount | None = None  # of the parameter that differs most
    watts: Amount | None = None
    failed: Text = ""


@dataclass(frozen=True)
class DecodingFigures:
    """Greedy decoding of one text by torch in float32, after one token."""

    model: Text
    tokens_per_second: Amount | None = None
    failed: Text = ""


@dataclass(frozen=True)
class Submission:
    format: Literal["nanogpt-profile"]
    version: Literal[1]
    machine: SubmittedMachine
    precisions: list[PrecisionFigures]
    steps: list[StepFigures]
    decoding: list[DecodingFigures]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in self.steps))


def write(file: Path, submission: Submission) -> None:
    """Raises OSError."""
    durable.write_json(file, to_json(submission))


def read(file: Path) -> Submission:
    """The submission in `file`, which may come from anybody. Raises UserError in one line for what is none."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: has more than {MOST_BYTES:,} bytes; a submission is smaller")
        value = durable.read_json(file)
    except ValueError:
        raise UserError(f"{file}: is not JSON; send the file that nanogpt profile --submit wrote") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UserError(f"{file}: format is not {FORMAT!r}; send the file that nanogpt profile --submit wrote")
    if value.get("version") != VERSION:
        raise UserError(f"{file}: found version {str(value.get('version'))[:20]!r}, this release reads {VERSION}")
    try:
        return from_json(Submission, value)
    except (ValueError, ValidationError) as error:
        raise UserError(f"{file}: {error}") from None


# ---- rows for docs/mps.md

HEADINGS = (
    "machine", "system, torch", "model", "fastest way", "ms a step", "forward", "backward", "Muon", "AdamW", "tokens/s",
    "of products", "memory", "float32", "bfloat16", "float16", "products / sdpa", "compiled / eager", "decoding",
    "watts", "not computed rightly, or not at all",
)  # fmt: skip


def table(submissions: list[Submission]) -> str:
    """A Markdown table with a row for each model of each submission."""
    rows = [row(submission, model) for submission in submissions for model in submission.models]
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def row(submission: Submission, model: str) -> tuple[str, ...]:
    """The cells below HEADINGS. A precision's figure is that of its fastest way; a ratio above 1 is a gain."""
    machine = submission.machine
    tried = [step for step in submission.steps if step.model == model]
    done = [step for step in tried if step.step_ms]
    system = f"{machine.system}, {machine.torch}"
    middle: tuple[str, ...]
    if not done:
        middle = ("nothing ran", *("–",) * 15)
    else:
        best = min(done, key=_step_ms)
        decoding = next((found.tokens_per_second for found in submission.decoding if found.model == model), None)
        parts = [_figure(best.ms.get(part), 1) for part in ("forward", "backward", "Muon", "AdamW")]
        fastest = [_of_precision(done, precision) for precision in ("float32", "bfloat16", "float16")]
        share = percent(best.share_of_products, 0)
        memory = "–" if best.peak_memory_bytes is None else f"{best.peak_memory_bytes / 2**20:,.0f} MiB"
        middle = (
            str(best.way), _figure(best.step_ms, 1), *parts, _figure(best.tokens_per_second, 0), share, memory,
            *(_figure(ms, 1) for ms in fastest), _gain(done, "attention", "sdpa", "products"),
            _gain(done, "compiled", False, True), _figure(decoding, 0), _figure(best.watts, 0),
        )  # fmt: skip
    return tuple(inline(cell) for cell in (machine.chip, system, model, *middle, _problems(submission, tried)))


def _step_ms(step: StepFigures) -> float:
    return step.step_ms or float("inf")


def _of_precision(done: list[StepFigures], precision: str) -> float | None:
    return min((_step_ms(step) for step in done if step.way.precision == precision), default=None)


def _gain(done: list[StepFigures], key: str, plain: str | bool, other: str | bool) -> str:
    """How many times as fast `other` is as `plain`, all else being equal: of the pair that gains most."""
    gains = [
        _step_ms(one) / _step_ms(two)
        for one in done
        for two in done
        if getattr(one.way, key) == plain
        and getattr(two.way, key) == other
        and _others(one, key) == _others(two, key)
    ]  # fmt: skip
    return f"{max(gains):.2f}" if gains else "–"


def _others(step: StepFigures, key: str) -> tuple[object, ...]:
    way = {name: value for name, value in vars(step.way).items() if name != key}
    return (step.micro_batch, step.passes, *way.values())


def _problems(submission: Submission, tried: list[StepFigures]) -> str:
    """What failed, and where torch's attention lets a position see what comes after it."""
    found = [f"{step.way}: {step.failed}" for step in tried if step.failed]
    found += [f"{row.precision}: {row.failed}" for row in submission.precisions if row.failed]
    leaks = [row.precision for row in submission.precisions if (row.causal_error or 0) > CAUSAL_ERROR]
    return "; ".join(found + [f"torch's attention in {precision} without gradients is wrong" for precision in leaks])


CAUSAL_ERROR = 0.05  # relative; bfloat16's rounding gives 0.003 on a CPU, a leak of three positions 0.2


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
