"""Facts of a run such as the eight phases leave, for the documents' tests: whole, with a failed phase, with none."""

import json
import math
import random
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from flows.context.command_words import PHASES
from flows.context.timeline import Moment
from flows.ledger.facts import (
    BASELINES,
    BYTE_PAIRS,
    CHARACTERS,
    CHECKS,
    CLEANED,
    COMPRESSED,
    DECODED,
    DEVICE,
    EVALUATED,
    EXAMPLES,
    EXPORTED,
    FETCHED,
    FIGURES,
    FOLDERS,
    FORMATS,
    MEASURED,
    PACKAGES,
    PLANNED,
    QUALITY,
    REPORTED,
    SAMPLES,
    SERVED,
    STUDIED,
    SYSTEM,
    TESTS,
    Baselines,
    Checks,
    CleanedText,
    Compressed,
    Decoded,
    Evaluated,
    Example,
    Examples,
    Exported,
    ExportedFile,
    ExportedFormat,
    FetchedText,
    Folders,
    Formats,
    Key,
    LeftOut,
    Measured,
    MeasuredModel,
    NoFacts,
    Packages,
    Planned,
    PlannedModel,
    PlannedPhase,
    Quality,
    Remedy,
    Reported,
    Samples,
    Served,
    Studied,
    System,
    SystemCheck,
    Tests,
    Tokenised,
    Trained,
    trained,
)
from flows.report.curves import flops_per_token
from flows.report.facts import ModelFacts, PhaseFacts, RunFacts, UnfinishedTraining
from flows.report.timeline import timeline
from flows.runner.milestones import Milestone
from flows.runner.step_runner import StepRecord
from nanogpt.config import Config
from nanogpt.plots.data import token_statistics_plot
from nanogpt.plots.models import baselines_plot, comparison_plot
from nanogpt.plots.run import phase_times_plot, timeline_plot
from nanogpt.plots.training import learning_rate_plot, loss_plot, speed_plot
from nanogpt.records import to_json
from nanogpt.results.compression import CompressedModel, CompressionTable
from nanogpt.results.evaluation import (
    Coherence,
    CoherenceFigures,
    CoherenceVerdict,
    Evaluation,
    JudgedSample,
    ModelFigures,
)
from nanogpt.results.machine import ComponentCheck, DeviceCandidate, DeviceProof
from nanogpt.results.quality import Estimate
from nanogpt.results.text import TextSplit, TokenSplit

F = TypeVar("F")
PLANNED_SECONDS = (6, 14, 22, 12, 470, 40, 14, 8)
ACTUAL_SECONDS = (4.1, 11.8, 19.6, 9.2, 431.0, 44.5, 12.3, None)
STEPS = {
    "environment": [FOLDERS, SYSTEM, DEVICE, PACKAGES],
    "implementation": [CHECKS],
    "configuration": [MEASURED, PLANNED],
    "dataset": [FETCHED, CLEANED, CHARACTERS, BYTE_PAIRS],
    "training": [trained("micro"), trained("tiny")],
    "evaluation": [EVALUATED, SAMPLES, DECODED, BASELINES, QUALITY, STUDIED, TESTS],
    "deployment": [EXPORTED, FORMATS, SERVED, COMPRESSED, EXAMPLES],
    "documentation": [FIGURES, REPORTED],
}
SPLIT_BYTES = {"train": 1_003_854, "val": 55_770, "test": 55_770}
SAMPLE = """ROMEO:
Why, then thou shalt not see the world to-night,
And I will speak with thee of thine own heart.

JULIET:
What say'st thou? Is the morning come so soon?
"""
HOSTILE = """````
```
<script>alert("out")</script>
{{ facts.run }} {% raw %} | a | b | <b>bold</b> ~~~~ `tick`
````````
<!-- # Not a heading -->
# Not a heading
"""


PLANNED_MODEL = PlannedModel(
    name="micro", parameters=803_000, n_layer=4, n_head=4, n_embd=128, block_size=64, tokenizer="char",
    precision="bfloat16", batch_size=12, gradient_accumulation=1, max_iters=420, tokens=322_560, seconds=30,
    memory_bytes=430_000_000, expected_bits_per_byte=2.66, why="a small model first, so that something good exists",
)  # fmt: skip


def complete_facts(folder: Path) -> RunFacts:
    """A run that did all it planned: two models trained, one memory fault mended. `folder` gets their metrics."""
    micro = _model(folder, PLANNED_MODEL, end=1.83, spread=0.02, seconds=31, speed=11_900)
    tiny = _model(folder, _planned_tiny(), end=1.52, spread=0.16, seconds=398, speed=8_870)
    facts = {
        **_environment(),
        **_implementation(),
        **_configuration(),
        **_dataset(),
        **{trained(model.name): model.facts for model in (micro, tiny)},
        **_evaluation(),
        **_deployment(),
        FIGURES: NoFacts(),
        REPORTED: Reported(),
    }
    steps = {key.step: to_json(value) for key, value in facts.items()}
    steps[BASELINES.step]["model"] = facts[EVALUATED].models["tiny"].test.bits_per_byte
    memory_fault = Remedy(
        when="2026-11-20 23:43:17",
        step="training.tiny",
        symptom="out_of_memory",
        evidence="DefaultCPUAllocator: can't allocate memory: you tried to allocate 402653184 bytes",
        remedy="halve the micro-batch, double the accumulation",
        outcome="micro-batch 6, cpu",
        cost_seconds=14.2,
        steps_lost=31,
    )
    return replace(
        bare_facts(),
        command="python3 -m flows.full_run --run night --budget 10m --data tiny_shakespeare",
        prefect_url="http://127.0.0.1:4200",
        versions={"nanogpt-autopilot": "0.1.0", "python": "3.12.11", "torch": "2.13.0", "prefect": "3.8.8"},
        ended="2026-11-20 23:49:01",
        spent_seconds=539.2,
        phases=_phases(),
        steps=steps,
        models=[micro, tiny],
        remedies=[memory_fault],
        milestones=[
            Milestone("4f2c9d1a7be0c6d83a5e1f0b9c2d4e6f8a1b3c5d", "Plan: micro, then tiny",
                           "2026-11-20 23:40:58+01:00"),
            Milestone("9e8d7c6b5a4f3e2d1c0b9a8f7e6d5c4b3a2f1e0d", "tiny trained: val loss 1.5204",
                           "2026-11-20 23:48:20+01:00"),
        ],
        configs={model.name: _config(model) for model in (PLANNED_MODEL, _planned_tiny())},
        timeline=moments(),
    )  # fmt: skip


def moments() -> list[Moment]:
    """What complete_facts() did when: killed in the second training, away for ten minutes, then to its end."""
    start = datetime.fromisoformat("2026-11-20 23:40:02").timestamp()
    found = [Moment(start, "session began", "1")]
    now = start + 1
    for name, seconds in zip(PHASES, ACTUAL_SECONDS, strict=True):
        for key in STEPS[name]:
            found.append(Moment(now, "step began", key.step))
            if key == trained("tiny"):
                found += [Moment(now + 90, "killed"), Moment(now + 690, "session began", "2")]
                now += 691
                found.append(Moment(now, "step began", key.step))
            now += (seconds or 0) / len(STEPS[name])
            if key != REPORTED:
                found.append(Moment(now, "step ended", key.step, "done"))
    return found


def failed_facts(folder: Path) -> RunFacts:
    """Training failed for good after its first model: evaluation continued with that one, export is blocked."""
    facts = complete_facts(folder)
    cause = "training.tiny: the device failed 3 times at step 250 (MPS command buffer exited with error status)"
    cpu = f"{facts.command} --set device.type=cpu"
    facts = with_phase(facts, "training", status="failed", cause=cause, next_command=cpu)
    facts = with_phase(facts, "deployment", status="blocked", cause="training.tiny has not finished")
    micro, tiny = facts.models
    figures = facts.of(EVALUATED).models["micro"]
    facts = with_step(facts, EVALUATED, best="micro", models={"micro": figures})
    deployment = (key.step for key in STEPS["deployment"])
    gone = ("training.tiny", *deployment, "documentation.figures")
    return replace(
        facts,
        steps={name: value for name, value in facts.steps.items() if name not in gone},
        models=[micro, replace(tiny, facts=UnfinishedTraining(cause))],
    )


def bare_facts() -> RunFacts:
    """A run whose first phase failed: nothing was measured, everything else is blocked."""
    facts = RunFacts(
        run="night",
        workspace="/home/ada/nanogpt-autopilot",
        command="python3 -m flows.full_run --run night --budget 10m",
        prefect_url=None,
        versions={"python": "3.12.11"},
        started="2026-11-20 23:40:02",
        ended="2026-11-20 23:40:04",
        sessions=1,
        budget_seconds=600,
        spent_seconds=1.8,
        min_charge=20.0,
        phases=_phases(),
        steps={},
        models=[],
        remedies=[],
        milestones=[],
        configs={},
    )
    for name in PHASES[:-1]:
        facts = with_phase(facts, name, status="blocked", cause="environment.system has not finished")
    cause = "0.4 GiB free on /home/ada, this plan needs 1.9 GiB"
    return with_phase(facts, "environment", status="failed", cause=cause, next_command=facts.command)


def without_phase(facts: RunFacts, name: str) -> RunFacts:
    """`facts` as they are when a phase failed before any of its steps finished."""
    facts = with_phase(facts, name, status="failed", cause=f"{name} broke | here", next_command=facts.command)
    gone = {key.step for key in STEPS[name]}
    return replace(
        facts,
        steps={step: value for step, value in facts.steps.items() if step not in gone},
        models=[] if name == "training" else facts.models,
        configs={} if name == "configuration" else facts.configs,
    )


def with_step(facts: RunFacts, key: Key[F], **changes: object) -> RunFacts:
    """`facts` with other figures of one step."""
    changed = replace(facts.of(key), **changes)
    return replace(facts, steps={**facts.steps, key.step: to_json(changed)})


def with_training(facts: RunFacts, name: str, **changes: object) -> RunFacts:
    """`facts` with another outcome of one model's training."""
    models = [replace(model, facts=replace(model.facts, **changes)) if model.name == name else model
              for model in facts.models]  # fmt: skip
    return replace(facts, models=models)


def with_phase(facts: RunFacts, name: str, **changes: object) -> RunFacts:
    """`facts` in which a phase went otherwise; one that did not end well did none of its steps."""
    phase = facts.phase(name)
    if changes.get("status") in ("failed", "blocked"):
        failed = phase.steps if changes["status"] == "failed" else []
        steps = [replace(step, state="failed", reason=changes["cause"], seconds=0.0) for step in failed]
        changes = {"next_command": None, "seconds": None, "steps": steps, **changes}
    return replace(facts, phases=[replace(row, **changes) if row is phase else row for row in facts.phases])


def draw_figures(facts: RunFacts, folder: Path) -> dict[str, Path]:
    """The figures that phase 8 draws, under the names that the report asks for."""
    figures = []
    folders = {model.name: Path(model.folder) for model in facts.models}
    for name, model in folders.items():
        figures.append(loss_plot(model, folder / f"{name}-loss.svg"))
        figures.append(learning_rate_plot(model, folder / f"{name}-learning-rate.svg"))
        figures.append(speed_plot(model, folder / f"{name}-speed.svg"))
    baselines, evaluated = facts.of(BASELINES).bits_per_byte, facts.of(EVALUATED).models
    tested = {name: figures_.test.bits_per_byte for name, figures_ in evaluated.items()}
    times = [(f"{phase.number} {phase.title}", phase.planned_seconds, phase.seconds) for phase in facts.phases]
    five_gram, costs = {"5-gram": baselines["5-gram"]}, flops_per_token(facts.of(MEASURED))
    figures.append(comparison_plot(folders, folder / "comparison.svg", five_gram, costs))
    vocabularies = [facts.of(CHARACTERS), facts.of(BYTE_PAIRS)]
    figures.append(token_statistics_plot(vocabularies, folder / "tokens.svg"))
    found = timeline(facts)
    figures.append(timeline_plot(found.lanes, found.spans, found.marks, found.breaks, folder / "timeline.svg"))
    figures.append(baselines_plot(baselines, tested, folder / "baselines.svg"))
    figures.append(phase_times_plot(times, folder / "phase-times.svg"))
    return {path.stem: path for path in figures}


def _phases() -> list[PhaseFacts]:
    phases = []
    for number, (name, planned, seconds) in enumerate(zip(PHASES, PLANNED_SECONDS, ACTUAL_SECONDS, strict=True), 1):
        kept = name == "dataset"
        state = "kept" if kept else "done"
        reason = "finished 2026-11-20 22:10, inputs and outputs unchanged" if kept else "never run"
        each = (seconds or 0.0) / len(STEPS[name])
        steps = [
            StepRecord(key.step, key.step.partition(".")[2].capitalize(), state, reason, each) for key in STEPS[name]
        ]
        status = "running" if name == "documentation" else state
        phases.append(PhaseFacts(number, name.capitalize(), status, seconds, planned, steps=steps))
    return phases


def _planned_tiny() -> PlannedModel:
    return replace(
        PLANNED_MODEL, name="tiny", parameters=10_650_000, n_layer=6, n_head=6, n_embd=384, block_size=256,
        gradient_accumulation=4, max_iters=2_300, tokens=28_262_400, seconds=430, memory_bytes=1_900_000_000,
        expected_bits_per_byte=2.2, why="the largest whose loss is expected to fall below micro's in the time left",
    )  # fmt: skip


def _model(folder: Path, plan: PlannedModel, end: float, spread: float, seconds: float, speed: float) -> ModelFacts:
    """A model folder with a believable curve: fast fall, plateau, a last fall in the cool-down."""
    name, parameters, steps = plan.name, plan.parameters, plan.max_iters
    tokens_per_step = plan.batch_size * plan.gradient_accumulation * plan.block_size
    noise = random.Random(name)
    model = folder / "models" / name
    model.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    decay_start, warmup, every = int(0.4 * steps), 20, max(1, steps // 12)
    best = math.inf
    for step in range(1, steps + 1):
        share = step / steps
        base = end + (math.log(65) - end) * (
            0.75 * math.exp(-step / 25) + 0.25 * (1 - share) ** 2 * math.exp(-2 * share)
        )
        rate = (
            0.01
            * min(step / warmup, 1)
            * (1 if step < decay_start else 1 - 0.95 * (step - decay_start) / (steps - decay_start))
        )
        if step % 10 == 0 or step == 1:
            rows.append(
                {
                    "kind": "train",
                    "step": step,
                    "loss": base - spread * share + noise.gauss(0, 0.03),
                    "learning_rate": rate,
                    "grad_norm": 0.4 + 2 * math.exp(-step / 60) + abs(noise.gauss(0, 0.08)),
                    "tokens": step * tokens_per_step,
                    "seconds": seconds * share,
                    "tokens_per_second": speed * noise.uniform(0.93, 1.03),
                    "memory_bytes": int(parameters * 28 + 4e8 + noise.random() * 1e7),
                }
            )
        if step % every == 0 or step == steps:
            rows.append(
                {
                    "kind": "eval",
                    "step": step,
                    "val_loss": base,
                    "train_loss": base - spread * share,
                    "bits_per_byte": base / math.log(2),
                    "seconds": seconds * share,
                    "best": base < best,
                }
            )
            best = min(best, base)
    (model / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (model / "samples.jsonl").write_text("".join(
        json.dumps({"step": step, "temperature": temperature, "text": f"step {step} at {temperature}\n{SAMPLE}"}) + "\n"
        for step in (steps // 2, steps) for temperature in (1.0, 0.6)
    ))  # fmt: skip
    outcome = Trained(
        status="finished",
        reason="out of time",
        step=steps,
        seconds=seconds,
        tokens=steps * tokens_per_step,
        best_val_loss=best,
        best_step=steps,
        best_is_average=False,
        skipped=0,
        rewinds=0,
        final_val_loss=next(row["val_loss"] for row in reversed(rows) if row["kind"] == "eval"),
        sha256="ab" * 32,
        parameters=parameters,
        tokens_per_second=speed,
        peak_memory_bytes=int(parameters * 28 + 4.2e8),
        device="cpu",
        precision="bfloat16",
        micro_batch=plan.batch_size,
        context=plan.block_size,
        folder=f"checkpoints/night/{name}",
        predicted_seconds=plan.seconds,
        expected_bits_per_byte=plan.expected_bits_per_byte,
        remedies=[],
    )
    return ModelFacts(name, str(model), outcome)


def _config(plan: PlannedModel) -> Config:
    shape = {"n_layer": plan.n_layer, "n_head": plan.n_head, "n_embd": plan.n_embd, "block_size": plan.block_size}
    training = {"batch_size": 12, "gradient_accumulation": plan.gradient_accumulation, "max_iters": 2300,
                "learning_rate": 0.01, "optimizer": "muon", "muon_learning_rate": 0.02, "schedule": "wsd",
                "early_stopping_patience": 0}  # fmt: skip
    return Config(
        name=plan.name,
        model={"preset": "modern", **shape, "dropout": 0.0, "vocab_size": 66},
        training=training,
        data={"source": "tiny_shakespeare", "tokenizer": "char"},
        device={"type": "auto"},
    )


def _environment() -> dict[Key, object]:
    tight = SystemCheck("Memory", "warn", "6.1 GiB free", "8 GiB for the largest model",
                        "close other programs, or expect the plan to stop at tiny")  # fmt: skip
    system = System(
        python="3.12.11",
        platform="Linux-6.8.0-x86_64",
        processor="AMD EPYC 9B14",
        cores=2,
        physical_cores=1,
        memory_bytes=8 << 30,
        memory_available_bytes=6 << 30,
        disk_free_bytes=31 << 30,
        disk_needed_bytes=2 << 30,
        checks=[
            SystemCheck("Python", "ok", "3.12.11", "3.11 or newer", ""),
            tight,
            SystemCheck("Disk", "ok", "31.0 GiB free", "1.9 GiB", ""),
        ],
    )
    device = DeviceProof(
        device="cpu",
        name="AMD EPYC 9B14",
        torch="2.13.0",
        platform="Linux-6.8.0-x86_64",
        memory_bytes=8 << 30,
        bfloat16=True,
        asked="auto",
        warning="",
        candidates=[
            DeviceCandidate("mps", False, "not built for MPS", None),
            DeviceCandidate("cuda", False, "no driver", None),
            DeviceCandidate("cpu", True, None, 3.1e-7),
        ],
        max_relative_error=3.1e-7,
        float32_flops=1.9e11,
        bfloat16_flops=3.7e11,
    )
    packages = {"torch": "2.13.0", "numpy": "2.3.1", "prefect": "3.8.8"}
    return {
        FOLDERS: Folders(["state/night", "logs/night", "data", "checkpoints", "reports/night"]),
        SYSTEM: system,
        DEVICE: device,
        PACKAGES: Packages(91, packages, "state/night/requirements.txt"),
    }


def _implementation() -> dict[Key, object]:
    names = (
        "causal mask",
        "attention against float64",
        "layer norm statistics",
        "RoPE is relative",
        "every gradient",
        "weight tying",
        "initial loss",
        "cached decoding",
        "checkpoint round trip",
        "overfits one batch",
    )
    checks = [
        ComponentCheck(name, True, 1.2e-7 * (i + 1), 1e-5, "", f"{name}: the difference must stay under the limit")
        for i, name in enumerate(names)
    ]
    parity = ComponentCheck("loss parity", True, 4.1e-7, 1e-4, "relative", "float32 against float64", "device")
    return {CHECKS: Checks("cpu", 11, 0, [*checks, parity], warning="")}


def _configuration() -> dict[Key, object]:
    micro = MeasuredModel(
        parameters=803_000,
        seconds_per_step=0.066,
        tokens_per_second=11_700,
        flops_per_second=6.1e10,
        matmul_flops_per_second=3.7e11,
        share_of_matmul=0.16,
        share_of_peak=None,
        peak_memory_bytes=430_000_000,
        mixed_precision="auto",
        precision="bfloat16",
        device="cpu",
        threads=2,
        steps=20,
        evaluation_seconds_per_token=1e-5,
        sample_seconds=0.4,
        save_seconds=0.1,
        batch_size=12,
        gradient_accumulation=1,
        gradient_checkpointing=False,
        longest_window=None,
        micro_batch=12,
    )
    tiny = replace(
        micro, parameters=10_650_000, seconds_per_step=1.38, tokens_per_second=8_900, flops_per_second=1.2e11,
        share_of_matmul=0.32, peak_memory_bytes=1_900_000_000, gradient_accumulation=4,
    )  # fmt: skip
    left_out = [
        LeftOut("huge", "has 49 parameters for each of the 1,003,854 tokens to learn from"),
        LeftOut("small", "in 60 s it would see 9,216 tokens and reach about 4.21 bits per byte; "
                "tiny reaches about 2.11"),
    ]  # fmt: skip
    phases = [
        PlannedPhase(number, name.capitalize(), seconds)
        for number, (name, seconds) in enumerate(zip(PHASES, PLANNED_SECONDS, strict=True), 1)
    ]
    return {
        MEASURED: Measured({"micro": micro, "tiny": tiny}, {}),
        PLANNED: Planned(600, [PLANNED_MODEL, _planned_tiny()], left_out, phases),
    }


def _dataset() -> dict[Key, object]:
    fetched = FetchedText(
        source="tiny_shakespeare",
        origin="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        bytes=1_115_394,
        documents=1,
        files=["data/downloads/tiny_shakespeare.txt"],
        characters=1_115_394,
        alphabet_size=65,
        fallback_reason=None,
        licence="public domain",
    )
    cleaned = CleanedText(
        documents=1,
        duplicates_removed=0,
        encodings={"utf-8": 1},
        characters=1_115_394,
        bytes=1_115_394,
        lines=40_000,
        words=202_651,
        distinct_words=25_670,
        alphabet="\n !$&',-.3:;?ABCabc|`",
        most_frequent=[(" ", 169_892), ("e", 94_611)],
        sha256=fetched.sha256,
        splits={name: TextSplit(size, size, 0) for name, size in SPLIT_BYTES.items()},
        alphabet_size=65,
    )
    characters = _tokenised("char", 66, 1.0, [(" ", 169_892), ("e", 94_611), ("|", 3), ("\n", 40_000)])
    byte_pairs = _tokenised("bpe", 1024, 2.61, [(" the", 5_437), (" I", 4_403)])
    return {FETCHED: fetched, CLEANED: cleaned, CHARACTERS: characters, BYTE_PAIRS: byte_pairs}


def _tokenised(kind: str, size: int, bytes_per_token: float, frequent: list[tuple[str, int]]) -> Tokenised:
    tokens = {name: int(count / bytes_per_token) for name, count in SPLIT_BYTES.items()}
    return Tokenised(
        tokenizer=kind,
        vocab_size=size,
        vocabulary_used=size - 1,
        tokens=sum(tokens.values()),
        tokens_per_split=tokens,
        bytes_per_token=bytes_per_token,
        most_frequent=frequent,
        longest_token=max((token for token, _ in frequent), key=len),
        folder=f"data/night/{kind}",
        splits={name: TokenSplit(tokens[name], count, count) for name, count in SPLIT_BYTES.items()},
    )


def _evaluation() -> dict[Key, object]:
    def evaluated(loss: float) -> Evaluation:
        return Evaluation(loss, math.exp(loss), loss / math.log(2), tokens=55_769, window=64)

    micro = ModelFigures(evaluated(1.83), evaluated(1.86), 1.8412, 803_000, "char", 64, 210_000_000)
    tiny = ModelFigures(evaluated(1.52), evaluated(1.55), 1.6133, 10_650_000, "char", 256, 420_000_000)
    figures = CoherenceFigures(known_words=0.93, surprise=2.31, repetition=0.02, longest_copy=28, characters=400)
    reference = CoherenceFigures(known_words=0.97, surprise=2.44, repetition=0.01, longest_copy=41, characters=5000)
    verdict = CoherenceVerdict(True, [], figures, reference)
    coherence = Coherence(
        coherent=True,
        score=0.93,
        limit=0.68,
        reference=0.97,
        figures=figures,
        reference_figures=reference,
        reasons=[],
        measure="known words, surprise under a 5-gram, repetition and copying, each against held-out text",
    )
    text = SAMPLE.removeprefix("ROMEO:")
    samples = [JudgedSample(temperature, "ROMEO:", text, verdict) for temperature in (0.5, 0.8, 1.0)]
    decoded = Decoded(
        tokens_per_second=412.0,
        prefill_tokens_per_second=9_300.0,
        prompt_tokens=64,
        new_tokens=200,
        weight_bytes=42_600_000,
        achieved_bytes_per_second=1.7e10,
        device="cpu",
        peak_memory_bytes=210_000_000,
        threads=2,
        model="tiny",
    )
    bits = {"uniform": 6.022, "unigram": 4.79, "5-gram": 2.41, "xz (test alone)": 3.43, "xz (after train)": 2.66}
    tail = "212 passed, 3 skipped in 13.80s"
    return {
        EVALUATED: Evaluated("tiny", {"micro": micro, "tiny": tiny}),
        SAMPLES: Samples(["ROMEO:"], samples, coherence, model="tiny"),
        DECODED: decoded,
        BASELINES: Baselines(bits, {"5-gram": "four bytes of context, interpolated modified Kneser-Ney"}),
        QUALITY: Quality(
            ["tiny is better: micro needs +0.1257 (+0.1106 to +0.1417) bits per byte."],
            ["tiny-calibration", "tiny-position", "tiny-size", "tiny-novelty"],
            model="tiny",
            comparison=None,
            writing=[],
        ),
        STUDIED: Studied(
            ["7 of 24 heads look mostly at the token before.", "The text costs 1.48 nats a token."],
            ["tiny-attention-entropy", "tiny-attention-heads", "tiny-lens", "tiny-embeddings"],
            model="tiny",
        ),
        TESTS: Tests("python -m pytest -m fast", 212, 0, 3, 13.8, timed_out=False, tail=tail),
    }


def _deployment() -> dict[Key, object]:
    folder = "exports/night/tiny"
    files = [
        ExportedFile(f"{folder}/model.safetensors", 42_600_000, "cd" * 32),
        ExportedFile(f"{folder}/config.json", 812, "ef" * 32),
    ]
    gguf = ExportedFile(f"{folder}-gguf/model.gguf", 42_500_000, "ab" * 32)
    formats = [ExportedFormat("gguf", "llama.cpp, Ollama", f"{folder}-gguf", [gguf], 42_500_000)]
    same = Estimate(2.236, 2.211, 2.262)
    original = CompressedModel("original", "as trained", 10_650_000, 42_600_000, same, Estimate(0.0, 0.0, 0.0),
                               Estimate(412.0, 405.0, 416.0), "original", "c, float32", 0.0, "")  # fmt: skip
    int8 = CompressedModel("int8", "weights of 8 bits", 10_650_000, 11_300_000, Estimate(2.237, 2.212, 2.263),
                           Estimate(0.001, -0.001, 0.003), Estimate(412.0, 405.0, 416.0), "original", "c, float32", 0.4,
                           "int8")  # fmt: skip
    table = CompressionTable([original, int8], {"pruned": "nothing can go"}, "int8", None,
                             ["For size: int8.", "For speed: none."], 871, 64, "cpu")  # fmt: skip
    chat = "you: Good morrow\nmodel: My lord, I will."
    return {
        EXPORTED: Exported("tiny", folder, files, 42_700_000),
        FORMATS: Formats("tiny", formats, {"mlx": "its head is not tied"}),
        SERVED: Served(
            "tiny",
            f"nanogpt serve {folder}",
            1.8,
            0.021,
            388.0,
            64,
            "ROMEO:",
            SAMPLE,
            "Who are you?",
            "A gentleman.",
            0.4,
        ),
        COMPRESSED: Compressed("tiny", f"{folder}-smaller", table),
        EXAMPLES: Examples(
            [
                Example("chat_bot.py", f"python examples/chat_bot.py {folder}", 0, 3.1, chat),
                Example("complete.py", f"python examples/complete.py {folder}", 0, 2.4, SAMPLE),
            ]
        ),
    }
