"""Trainings compared: which is better, by how much, and whether that is more than chance.

Two things make a difference by chance. Another text would give other figures: the difference is taken block by block
over the same text, with an interval by bootstrap (nanogpt.evaluation.block_bootstrap). And another seed would give
other weights: how far trainings of equal settings come out apart was measured, or is measured here where several runs
have equal settings. A difference counts when it is larger than both together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from nanogpt.data.shards import read_manifest
from nanogpt.evaluation.block_bootstrap import BlockMean
from nanogpt.evaluation.quality import bits_per_byte
from nanogpt.evaluation.students_t import student_t
from nanogpt.evaluation.token_scores import in_order, score, split_text
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.results.study import ComparedRun, RunComparison, RunDifference, SeedSpread, SettingDifference
from nanogpt.study.runs import TrainedRun, distinct_names
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.training.progress import DIGEST_SHOWN, NOT_THE_TRAJECTORY
from nanogpt.units import percent
from nanogpt.weights.folders import model_of
from nanogpt.weights.trained_folder import TrainedFolder

# Measured on 2026-11-29 by this module (torch 2.13, AMD EPYC, bfloat16): seeds 1 to 8 end at 2.490 to 2.570 bits per
# byte of the validation split, 2.515 in the mean, with a deviation of 0.0271.
SEEDS = SeedSpread(deviation=0.0108, runs=8, source="8 seeds of configs/micro.yaml, 300 steps on tiny Shakespeare")
FEWEST_REPEATS = 4  # degrees of freedom, before the spread of the runs at hand counts instead of SEEDS
SEED = "training.seed"


def compare_runs(
    runs: Sequence[TrainedRun], data_folder: Path, split: str, device: str, on_run: Callable[[str], None]
) -> RunComparison:
    """Judge the best weights of each of `runs` by the same split, and compare them with the best one.

    `on_run` gets the name of each before it is judged. Raises UserError for fewer than two runs, or a text that one of
    them cannot read; CorruptFileError, NonFiniteError.
    """
    if len(runs) < 2:
        raise UserError(f"found {len(runs)} run, two at least can be compared")
    names = distinct_names(runs)
    judged: dict[str, BlockMean] = {}
    for name, run in zip(names, runs, strict=True):
        on_run(name)
        judged[name] = _bits(run, name, data_folder, split, device)
    compared = [_as_compared(run, name, judged[name]) for name, run in zip(names, runs, strict=True)]
    spread = seed_spread(runs, [run.bits_per_byte.value for run in compared])
    compared.sort(key=lambda run: run.bits_per_byte.value)
    differences = [_difference(run, compared[0], judged, spread) for run in compared[1:]]
    by_name = dict(zip(names, runs, strict=True))
    ordered = [by_name[run.name] for run in compared]
    settings = differing_settings(ordered)
    comparison = RunComparison(split, compared, settings, differences, spread, [])
    comparison.findings.extend([*findings(comparison), *_remarks(comparison, ordered, data_folder)])
    return comparison


def _bits(run: TrainedRun, name: str, data_folder: Path, split: str, device: str) -> BlockMean:
    """What the run's best weights cost, block by block; each token has half a window before it at least."""
    source = TrainedFolder(run.folder)
    text = split_text(data_folder, split, load_tokenizer(run.folder), name)
    window = min(source.config.block_size, len(text.tokens) - 1)
    try:
        scores = score(model_of(source), text.tokens, window, max(1, window // 2), device)
    except NonFiniteError as error:
        raise NonFiniteError(f"{name}: {error}") from error
    return bits_per_byte(text, in_order(scores)[0])


def _as_compared(run: TrainedRun, name: str, bits: BlockMean) -> ComparedRun:
    return ComparedRun(
        name=name,
        folder=str(run.folder),
        parameters=run.parameters,
        steps=run.steps,
        tokens=run.tokens,
        seconds=run.seconds,
        device=run.outcome.device if run.outcome else "",
        seed=run.config.training.seed,
        weights=TrainedFolder(run.folder).digest(),
        bits_per_byte=bits.estimate(),
    )


def _difference(run: ComparedRun, best: ComparedRun, judged: dict[str, BlockMean], spread: SeedSpread) -> RunDifference:
    by_text = judged[run.name].less(judged[best.name])
    size = fmean([run.bits_per_byte.value, best.bits_per_byte.value])
    by_seed = student_t(spread.runs - 1) * math.sqrt(2) * spread.deviation * size
    reach = max(by_text.value - by_text.low, by_text.high - by_text.value)
    return RunDifference(run.name, best.name, by_text, by_seed, math.hypot(reach, by_seed), run.weights == best.weights)


def seed_spread(runs: Sequence[TrainedRun], bits: Sequence[float]) -> SeedSpread:
    """The spread of `runs` with equal settings but for the seed, pooled; SEEDS where there are too few of them.

    `bits`: bits per byte of each.
    """
    groups: dict[tuple[str, ...], list[tuple[int, float]]] = defaultdict(list)
    for run, value in zip(runs, bits, strict=True):
        settings = tuple(value for key, value in decisive(run).items() if key != SEED)
        groups[settings].append((run.config.training.seed, value))
    squares, freedom = 0.0, 0
    for members in groups.values():
        if len({seed for seed, _ in members}) == len(members):  # the same seed twice says nothing of other seeds
            middle = fmean(value for _, value in members)
            squares += sum((value / middle - 1) ** 2 for _, value in members)
            freedom += len(members) - 1
    if freedom < FEWEST_REPEATS:
        return SEEDS
    source = "the runs compared here that differ in their seed alone"
    return SeedSpread(math.sqrt(squares / freedom), freedom + 1, source)


def differing_settings(runs: Sequence[TrainedRun]) -> list[SettingDifference]:
    """What decides a training's weights and is not the same in all, from their settings, data and device."""
    values = [decisive(run) for run in runs]
    keys = sorted(key for key in values[0] if len({each[key] for each in values}) > 1)
    return [SettingDifference(key, [each[key] for each in values]) for key in keys]


def decisive(run: TrainedRun) -> dict[str, str]:
    """{dotted key: value} of what decides the weights that a training comes to, as a person reads it."""
    config, outcome = run.config, run.outcome
    skipped = NOT_THE_TRAJECTORY - {"max_seconds"}
    if not config.training.early_stopping_patience:
        skipped |= {"eval_interval"}  # decides when to stop, and nothing else
    found = {f"model.{key}": _shown(value) for key, value in config.model.model_dump().items()}
    found |= {
        f"training.{key}": _shown(value) for key, value in config.training.model_dump().items() if key not in skipped
    }
    found["data"] = run.data.manifest_sha256[:DIGEST_SHOWN] if run.data else "not known"
    found["precision"] = f"{outcome.precision} on {outcome.device}" if outcome else "not known"
    return found


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


# ---- in words


def findings(comparison: RunComparison) -> list[str]:
    """What is to be seen, in sentences."""
    words = [_difference_in_words(difference) for difference in comparison.differences]
    return [*words, _settings_in_words(comparison), _spread_in_words(comparison.spread)]


def _difference_in_words(found: RunDifference) -> str:
    if found.same_weights:
        return f"{found.best} and {found.run} are the same weights: no clear difference."
    size = f"{found.by_text.value:.4f} bits per byte"
    reach = max(found.by_text.value - found.by_text.low, found.by_text.high - found.by_text.value)
    noise = f"chance may make ±{found.noise:.4f} (another text ±{reach:.4f}, another seed ±{found.by_seed:.4f})"
    if found.is_clear:
        return f"{found.best} is clearly better than {found.run}, by {size}; {noise}."
    return f"No clear difference between {found.best} and {found.run}: {size}; {noise}."


def _settings_in_words(comparison: RunComparison) -> str:
    keys = [setting.key for setting in comparison.settings]
    if not keys:
        return "Their settings are the same."
    if keys == [SEED]:
        return "They differ in the seed alone."
    others = [key for key in keys if key != SEED]
    if len(others) == 1:
        return f"Their settings differ in {others[0]}{' and the seed' if SEED in keys else ''} alone."
    return (
        f"Their settings differ in {len(others)} keys ({', '.join(others[:4])}{', ...' if len(others) > 4 else ''}): "
        "which of them makes the difference cannot be told from these runs."
    )


def _spread_in_words(spread: SeedSpread) -> str:
    words = f"The seed's noise is a deviation of {percent(spread.deviation)} of the bits per byte ({spread.source})."
    if spread == SEEDS:
        words += (
            " Other models and longer trainings have another: five seeds of one setting, or three of each of two, "
            "measure it here."
        )
    return words


def _remarks(comparison: RunComparison, runs: Sequence[TrainedRun], data_folder: Path) -> list[str]:
    """What makes the comparison less fair than it looks. `runs` are in the order of the comparison."""
    remarks = []
    text = read_manifest(data_folder).source_sha256
    strangers = [
        compared.name
        for compared, run in zip(comparison.runs, runs, strict=True)
        if run.data is not None and run.data.text_sha256 not in (None, text)
    ]
    if strangers:
        remarks.append(f"{' and '.join(strangers)} learned from another text than the one that all are judged by.")
    unfinished = [compared.name for compared, run in zip(comparison.runs, runs, strict=True) if run.outcome is None]
    if unfinished:
        remarks.append(f"{' and '.join(unfinished)} had not finished training.")
    return remarks
