"""A plan for a machine that is not here, from one step that it is said to take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from flows.context.command_words import AssumedSpeed
from flows.context.options import RunOptions
from flows.ledger.facts import SurveyedText
from flows.planning import budget_shares, corpora, planner
from flows.planning.corpora import TextChoice
from flows.planning.footprint import fitted, memory_needed, smallest
from flows.planning.forecast import Speed
from flows.planning.planner import Plan
from flows.planning.site import Site
from nanogpt.config import Config
from nanogpt.measure.sizes import flops_per_token, parameters
from nanogpt.units import byte_size

SAMPLE_SECONDS = 2.0  # of one sample
SAVED_PER_SECOND = 5e8  # bytes of a checkpoint
STATE_BYTES = 12  # of a checkpoint, for each parameter


def plan_for(
    options: RunOptions,
    assumed: AssumedSpeed,
    device: str,
    memory_bytes: int,
    disk_free: int,
    texts: Sequence[SurveyedText],
    state: Path,
) -> Plan:
    """As the planner would make it, had it measured `assumed.flops_per_second` for every model. Raises UserError."""
    budget, data = options.config.budget, options.config.data

    def phases(text_bytes: int) -> dict[str, float]:
        return budget_shares.expected(state, budget, text_bytes)

    seconds = budget_shares.training_seconds(budget, phases(0))
    means = corpora.Means(assumed.flops_per_second, seconds, budget, disk_free, budget_shares.TEXT_RATE)
    choice = corpora.choose(texts, means, data)
    site = Site(device, memory_bytes, choice.alphabet_size)
    models = [site.settle(config.with_changes(choice.settings)) for config in options.candidates]
    speeds, unmeasured = speeds_of(models, assumed.flops_per_second, site)
    for config in models[1:]:  # the first is always trained
        if reason := planner.starved(parameters(config.model).total, choice.corpus(data)):
            speeds.pop(config.name, None)
            unmeasured[config.name] = reason

    def make(part: TextChoice) -> Plan:
        return planner.make_plan(
            models, speeds, unmeasured, budget, phases(part.bytes), part.corpus(data), site.training_bytes,
            fixed=options.fixed, pinned=options.pinned,
        )  # fmt: skip

    return corpora.plan_with(choice, data, make)


def speeds_of(models: Iterable[Config], rate: float, site: Site) -> tuple[dict[str, Speed], dict[str, str]]:
    """Of each model that fits into memory at `rate` FLOP/s; for each other, why not."""
    speeds, unmeasured = dict[str, Speed](), dict[str, str]()
    for config in models:
        fitting = fitted(config, site.device, site.training_bytes)
        if fitting is None:
            least = byte_size(memory_needed(smallest(config), site.device))
            unmeasured[config.name] = (
                f"is predicted to need {least}; a training may take {byte_size(site.training_bytes)}"
            )
            continue
        size, training = parameters(config.model).total, fitting.training
        speeds[config.name] = Speed(
            name=config.name,
            parameters=size,
            seconds_per_step=flops_per_token(config.model) * config.tokens_per_step / rate,
            flops_per_second=rate,
            peak_memory_bytes=memory_needed(fitting, site.device),
            mixed_precision=True,
            threads=1,
            batch_size=training.batch_size,
            gradient_accumulation=training.gradient_accumulation,
            gradient_checkpointing=fitting.device.gradient_checkpointing,
            sample_seconds=SAMPLE_SECONDS,
            save_seconds=STATE_BYTES * size / SAVED_PER_SECOND,
        )
    return speeds, unmeasured
