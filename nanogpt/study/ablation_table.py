"""What the ablations came to: each variant against the control with the same seeds, in figures and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from nanogpt.config import Config
from nanogpt.evaluation.students_t import student_t
from nanogpt.results.ablations import Ablation, AblationRow, AblationTable, AsExpected, KernelTimes, Verdict
from nanogpt.study.variants import BY_NAME, CONTROL, Variant

SAME = 0.01  # nats a token: less is no difference that anybody would act on
CHEATS = 0.05  # nats a token that a model loses when it may no longer see what it was trained to see


def make_table(
    control: Config, ablations: Sequence[Ablation], kernels: Sequence[KernelTimes], missing: Sequence[str]
) -> AblationTable:
    """Raises ValueError where the control is not among the ablations."""
    of_control = {run.seed: run for run in ablations if run.variant == CONTROL.name}
    if not of_control:
        raise ValueError("the control was not trained: there is nothing to compare with")
    names = dict.fromkeys([CONTROL.name, *(run.variant for run in ablations)])
    groups = {name: [run for run in ablations if run.variant == name] for name in names}
    rows = [_row(BY_NAME[name], runs, of_control) for name, runs in groups.items()]
    first = next(iter(of_control.values()))
    return AblationTable(
        control=control.name,
        steps=first.steps,
        tokens=first.steps * control.tokens_per_step,
        rows=rows,
        kernels=list(kernels),
        findings=[
            _in_short(rows, first.steps),
            *(_finding(row, groups[row.variant], rows[0]) for row in rows[1:]),
            *_of_kernels(kernels),
        ],
        device=first.device,
        precision=first.precision,
        missing=list(missing),
    )


def _row(variant: Variant, runs: Sequence[Ablation], of_control: dict[int, Ablation]) -> AblationRow:
    losses = [run.val_loss for run in runs if run.val_loss is not None]
    pairs = [(run.val_loss, of_control[run.seed].val_loss) for run in runs if run.seed in of_control]
    differences = [ours - control for ours, control in pairs if ours is not None and control is not None]
    is_control = variant.name == CONTROL.name
    difference = fmean(differences) if differences and not is_control else None
    margin = _margin(differences) if difference is not None else None
    of_controls = [run.val_loss for run in of_control.values() if run.val_loss is not None]
    are_apart = bool(losses) and _are_apart(losses, of_controls)
    verdict = _verdict(variant, len(losses) < len(runs), difference, margin, are_apart)
    return AblationRow(
        variant=variant.name,
        title=variant.title,
        shows=variant.shows,
        parameters=runs[0].parameters,
        losses=losses,
        loss=fmean(losses) if losses else None,
        spread=stdev(losses) if len(losses) > 1 else None,
        difference=difference,
        margin=margin,
        verdict=verdict,
        as_expected=_as_expected(variant, verdict),
        seconds=fmean(run.seconds for run in runs),
    )


def _margin(differences: Sequence[float]) -> float | None:
    count = len(differences)
    if count < 2:
        return None
    return student_t(count - 1) * stdev(differences) / math.sqrt(count)


def _are_apart(losses: Sequence[float], control: Sequence[float]) -> bool:
    """Whether every loss is outside the 95 % prediction interval of one more control: a change that makes seeds differ
    much has a wide interval of its own, and may still be worse with each of them."""
    if len(control) < 2:
        return False
    reach = max(SAME, student_t(len(control) - 1) * stdev(control) * math.sqrt(1 + 1 / len(control)))
    return min(losses) > fmean(control) + reach or max(losses) < fmean(control) - reach


def _verdict(
    variant: Variant, has_broken: bool, difference: float | None, margin: float | None, are_apart: bool
) -> Verdict:
    if variant.name == CONTROL.name:
        return "control"
    if has_broken:
        return "not finite"
    if difference is None or margin is None:
        return "not known"
    if abs(difference) < SAME or (abs(difference) <= margin and not are_apart):
        return "no clear difference"
    return "worse" if difference > 0 else "better"


def _as_expected(variant: Variant, verdict: Verdict) -> AsExpected:
    if variant.expected == "open" or verdict in ("control", "not known"):
        return ""
    if variant.expected == "same":
        return "yes" if verdict == "no clear difference" else "no"
    if verdict in ("worse", "not finite"):
        return "yes"
    return "no" if verdict == "better" else "not seen"


def _in_short(rows: Sequence[AblationRow], steps: int) -> str:
    broken = [row.title for row in rows if row.verdict == "not finite"]
    worse = sorted((row for row in rows if row.verdict == "worse"), key=lambda row: -(row.difference or 0))
    better = [row.title for row in rows if row.verdict == "better"]
    unclear = sum(row.verdict == "no clear difference" for row in rows)
    fewest, most = (count(len(row.losses) for row in rows) for count in (min, max))
    seeds = "1 seed" if most == 1 else f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    parts = [f"{len(rows) - 1} change{'s' if len(rows) > 2 else ''}, each trained {steps:,} steps with {seeds}"]
    parts += [f"not finite: {', '.join(broken)}"] if broken else []
    parts += [f"clearly worse, worst first: {', '.join(row.title for row in worse)}"] if worse else []
    parts += [f"clearly better: {', '.join(better)}"] if better else []
    parts += [f"no clear difference: {unclear}"] if unclear else []
    return "; ".join(parts) + "."


def _finding(row: AblationRow, runs: Sequence[Ablation], control: AblationRow) -> str:
    title = row.title[0].upper() + row.title[1:]
    steps = runs[0].steps
    if row.verdict == "not finite":
        broken = [run for run in runs if run.val_loss is None]
        after = min(run.diverged_at if run.diverged_at is not None else steps for run in broken)
        return f"{title}: no longer finite in {len(broken)} of {len(runs)} seeds, first after {after:,} steps."
    if row.difference is None or row.loss is None or control.loss is None:
        return f"{title}: nothing to compare, as the control has no finite loss."
    figures = f"{row.difference:+.3f}" + ("" if row.margin is None else f" ± {row.margin:.3f}")
    perplexities = f"perplexity {math.exp(row.loss):.2f}, control {math.exp(control.loss):.2f}"
    if row.verdict == "not known":
        text = f"{title}: {figures} nats a token with one seed, of whose noise nothing is known ({perplexities})."
    elif row.verdict == "no clear difference":
        text = f"{title}: no clear difference, {figures} nats a token over {len(runs)} seeds."
        if row.as_expected == "not seen":
            text += f" It was expected to be worse; {steps:,} steps of a model of this size do not show it."
    else:
        text = f"{title}: {row.verdict}, {figures} nats a token ({perplexities})."
        if row.as_expected == "no":
            text += " The opposite was expected."
    return text + _of_cheating(row, runs)


def _of_cheating(row: AblationRow, runs: Sequence[Ablation]) -> str:
    as_trained = [run.val_loss_as_trained for run in runs if run.val_loss_as_trained is not None]
    if not as_trained or row.loss is None or row.loss - fmean(as_trained) < CHEATS:
        return ""
    return f" As it was trained, with the answer in sight, it has {fmean(as_trained):.3f}: that loss measures copying."


def _of_kernels(kernels: Sequence[KernelTimes]) -> list[str]:
    if not kernels:
        return []
    first, *others = (
        (f"{row.written_out / row.fused:.1f} times", f"with windows of {row.window:,}") for row in kernels
    )
    ratios = [" as long as the fused kernel ".join(first), *map(" ".join, others)]
    difference = max(row.difference for row in kernels)
    return [
        f"Attention written out takes, forward and backward, {', '.join(ratios)}; outputs and gradients differ by "
        f"{difference:.0e} of the largest at most."
    ]
