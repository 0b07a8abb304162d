"""A trained model made smaller in every way that is known here, and one table that compares what came out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from nanogpt import durable
from nanogpt.compression import distillation, pruning, recovery, rounding, structured
from nanogpt.compression.recommendation import recommend
from nanogpt.compression.variant import Variant, copy_of, dense
from nanogpt.config import Config
from nanogpt.data.data_loader import Samples
from nanogpt.data.shards import open_split, verify
from nanogpt.decoders.opening import open_decoder
from nanogpt.decoders.protocol import Decoder
from nanogpt.evaluation.speed import timing
from nanogpt.evaluation.window_losses import Windows, losses, mean
from nanogpt.export import huggingface
from nanogpt.faults import UserError, nearest
from nanogpt.model.gpt import GPT
from nanogpt.records import to_json
from nanogpt.results.compression import CompressedModel, CompressionTable
from nanogpt.results.quality import Estimate
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.units import byte_size
from nanogpt.weights import published_settings
from nanogpt.weights.folders import open_folder

ORIGINAL = "original"
METHODS = ("int8", "int4", "sparse", "pruned", "distilled")
TRAINED = ("pruned", "distilled")  # these learn, and share the seconds
TABLE, PAGE = "table.json", "table.md"
LEAST_SECONDS = 1.0  # of learning for one model
WINDOWS_TO_TIME = 32
BATCHES = 8  # that the importance of heads and rows is measured on, at most
LOOKING = 0.1  # share of a pruned model's seconds in which that is measured; on a busy machine 8 batches took 40 s
ROUNDS, SECONDS_OF_A_ROUND = 3, 0.3  # of the speed's measurement: every model in turn, so that noise falls on all


@dataclass(frozen=True)
class Original:
    """The model that is made smaller, and what it was trained on."""

    model: GPT
    tokenizer: Tokenizer
    data_folder: Path
    device: str


def compress(
    folder: Path,
    data_folder: Path,
    out: Path,
    seconds: float = 60.0,
    seconds_to_judge: float = 60.0,
    methods: Sequence[str] = METHODS,
    student: Config | None = None,
    device: str = "cpu",
    notify: Callable[[str], None] = lambda words: None,
) -> CompressionTable:
    """Make the models of `methods` from the one in `folder`, each an export in a folder of `out`, and their table.

    `seconds` are for those that learn (TRAINED), shared equally. `seconds_to_judge` decides on how many windows of the
    test split all are judged; measuring speed and writing come on top. `student`: the shape and the training of the
    distilled model; None takes half the layers. `notify` gets a line for each model.
    A method that fits no such model is left out, and the table says why. Raises UserError for a mistake, and
    CorruptFileError.
    """
    check_methods(methods)
    model, tokenizer = open_folder(folder)
    published_settings.settings_of(model.config)
    if verify(data_folder).tokenizer.digest != tokenizer.digest:
        raise UserError(f"{data_folder}: is tokenised otherwise than what {folder} was trained on")
    original = Original(model, tokenizer, data_folder, device)
    windows = Windows.of(open_split(data_folder, "test"), model.config.block_size)
    windows = windows.spread(_windows_in(seconds_to_judge / (1 + len(methods)), model, windows, device))
    variants: dict[str, Variant] = {ORIGINAL: dense(model, "as it was trained, float32")}
    taken: dict[str, float] = {ORIGINAL: 0.0}
    left_out: dict[str, str] = {}
    out.mkdir(parents=True, exist_ok=True)
    recovery.remove_leftovers(out)
    for name in (PAGE, TABLE):  # of an earlier time: models that are half made anew are not what they say
        durable.remove(out / name)
    each = seconds / max(1, sum(method in TRAINED for method in methods))
    for method in methods:
        if method in TRAINED and each < LEAST_SECONDS:
            left_out[method] = f"{each:.1f} s are too few to learn in; {LEAST_SECONDS:g} s are the least"
            continue
        began = time.monotonic()
        try:
            variants[method] = _make(method, original, each, student, out)
        except UserError as error:
            left_out[method] = str(error)
            continue
        taken[method] = time.monotonic() - began
        huggingface.export(variants[method].model, tokenizer, out / method, sources=[folder])
        notify(f"{method}: {byte_size(variants[method].bytes)}, made in {taken[method]:.1f} s")
    table = _table(original, variants, windows, _decoders(folder, out, variants, device, notify), taken, left_out)
    durable.write_json(out / TABLE, to_json(table))
    durable.write_text(out / PAGE, as_markdown(table))
    return table


def _windows_in(seconds: float, model: GPT, windows: Windows, device: str) -> int:
    """How many windows `model` is judged on in so many seconds."""
    few = windows.spread(WINDOWS_TO_TIME)
    losses(model, few, device)  # unmeasured: the first products of a process take longer
    began = time.perf_counter()
    losses(model, few, device)
    return max(WINDOWS_TO_TIME, int(seconds * len(few) / (time.perf_counter() - began)))


def check_methods(methods: Sequence[str]) -> None:
    """Raise UserError for one that is not known, or none."""
    for method in methods:
        if method not in METHODS:
            raise UserError(f"method {method!r}: allowed are {', '.join(METHODS)}{nearest(method, METHODS)}")
    if not methods:
        raise UserError(f"methods: found none, allowed are {', '.join(METHODS)}")


def _make(method: str, original: Original, seconds: float, student: Config | None, out: Path) -> Variant:
    model = original.model
    if method == "int8":
        return rounding.rounded(model, 8)
    if method == "int4":
        return rounding.rounded(model, 4)
    if method == "sparse":
        return pruning.without_smallest(model)
    return _prune(original, seconds, out) if method == "pruned" else _distil(original, seconds, student)


def _prune(original: Original, seconds: float, out: Path) -> Variant:
    """Heads and rows go, and a short training mends what that broke."""
    model, batch_size = original.model, recovery.TRAINING.batch_size
    samples = Samples(open_split(original.data_folder, "train").tokens, model.config.block_size, seed=0)
    began = time.monotonic()
    in_time = takewhile(lambda index: not index or time.monotonic() - began < LOOKING * seconds, range(BATCHES))
    batches = (samples.batch(index * batch_size, batch_size) for index in in_time)
    narrow = structured.pruned(copy_of(model), batches)
    seconds = max(LEAST_SECONDS, seconds - (time.monotonic() - began))
    mended = recovery.recovered(narrow, original.tokenizer, original.data_folder, seconds, original.device, out)
    before, now = model.config, mended.config
    how = (
        f"{now.n_head} of {before.n_head} heads and {now.ffn_width} of {before.ffn_width} feed-forward rows, "
        f"then trained for {seconds:.0f} s"
    )
    return dense(mended, how)


def _distil(original: Original, seconds: float, student: Config | None) -> Variant:
    teacher = copy_of(original.model)
    shape = distillation.student_shape(teacher.config, student.model if student else None)
    learner = distillation.student_of(teacher, shape)
    if learner.num_parameters() >= teacher.num_parameters():
        raise UserError(f"the student's {learner.num_parameters():,} parameters are no fewer than the teacher's")
    training = student.training if student else distillation.TRAINING
    steps = distillation.distil(teacher, learner, original.data_folder, seconds, training, original.device)
    what = f"{student.name}'s shape" if student else f"{shape.n_layer} of {teacher.config.n_layer} layers"
    return dense(learner.cpu(), f"{what}, learned from the original for {seconds:.0f} s ({steps:,} steps)")


def _table(
    original: Original,
    variants: dict[str, Variant],
    windows: Windows,
    decoders: dict[str, Decoder],
    taken: dict[str, float],
    left_out: dict[str, str],
) -> CompressionTable:
    speeds = measured_speeds(decoders)
    bits = {
        name: mean(windows.bits_per_byte(losses(variant.model, windows, original.device)))
        for name, variant in variants.items()
    }
    rows = [
        CompressedModel(
            name=name,
            how=variant.how,
            parameters=variant.model.num_parameters(),
            bytes=variant.bytes,
            bits_per_byte=bits[name].estimate(),
            difference=bits[name].less(bits[ORIGINAL]),
            tokens_per_second=speeds.get(name, speeds[ORIGINAL]),
            speed_of=name if name in speeds else ORIGINAL,
            backend=decoders.get(name, decoders[ORIGINAL]).description,
            seconds=round(taken[name], 2),
            folder="" if name == ORIGINAL else name,
        )
        for name, variant in variants.items()
    ]
    advice = recommend(rows)
    return CompressionTable(
        models=rows,
        left_out=left_out,
        smallest=advice.smallest,
        fastest=advice.fastest,
        recommendation=advice.lines,
        windows=len(windows),
        window=original.model.config.block_size,
        device=original.device,
    )


def _decoders(
    folder: Path, out: Path, variants: dict[str, Variant], device: str, notify: Callable[[str], None]
) -> dict[str, Decoder]:
    """What each model is decoded with here, as `nanogpt generate` would: those whose speed is not the original's.

    Weights of 8 bits have a speed of their own where a backend computes with them, which is on a CPU.
    """
    own = {name for name, variant in variants.items() if not variant.same_products}
    found = {
        name: open_decoder(folder if name == ORIGINAL else out / name, device, notify=notify).decoder for name in own
    }
    if "int8" in variants and device == "cpu":
        try:
            found["int8"] = open_decoder(folder, device, notify=notify, precision="int8").decoder
        except UserError as error:
            notify(f"int8: its speed is shown as the original's: {error}")
    return found


def measured_speeds(decoders: dict[str, Decoder]) -> dict[str, Estimate]:
    """Tokens a second with each decoder, one text at a time: the median of ROUNDS in turn, and their range."""
    rounds: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(ROUNDS):
        for name, decoder in decoders.items():
            rounds[name].append(timing(decoder, max_seconds=SECONDS_OF_A_ROUND).tokens_per_second)
    return {name: Estimate(statistics.median(found), min(found), max(found)) for name, found in rounds.items()}


def as_markdown(table: CompressionTable) -> str:
    """The table for people, with what is recommended."""
    lines = [
        "| Model | What it is | Parameters | Weights | Bits per byte (95 %) | Against the original | Tokens/s |",
        "|:---|:---|---:|---:|---:|---:|---:|",
    ]
    for row in table.models:
        bits, difference, speed = row.bits_per_byte, row.difference, row.tokens_per_second
        against = (
            "–"
            if row is table.original
            else f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
        )
        same = "" if row.speed_of == row.name else f" (as {row.speed_of})"
        lines.append(
            f"| {row.name} | {row.how} | {row.parameters:,} | {byte_size(row.bytes)} "
            f"| {bits.value:.4f} ({bits.low:.4f} to {bits.high:.4f}) | {against} | {speed.value:,.0f}{same} |"
        )
    speeds = "; ".join(f"{row.name} by {row.backend}" for row in table.models if row.speed_of == row.name)
    lines += ["", f"Judged on {table.windows:,} windows of {table.window} tokens of the test split."]
    lines += [f"Decoded: {speeds}.", ""]
    lines += [f"- {line}" for line in table.recommendation]
    lines += [f"- Left out: {name}, because {reason}" for name, reason in table.left_out.items()]
    return "\n".join(lines) + "\n"
