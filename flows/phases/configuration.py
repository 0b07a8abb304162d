"""Phase 3: a short measurement on this machine, and from it and the budget every model's resolved YAML."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from flows.context.command_words import budget_of
from flows.ledger.facts import (
    CHECKS,
    DEVICE,
    FETCHED,
    MEASURED,
    PLANNED,
    SURVEYED,
    Measured,
    Planned,
    PlannedModel,
    PlannedText,
    Surveyed,
    TextTokens,
    trained,
)
from flows.ledger.steps import Json, StepResult
from flows.machine.disk import size_of
from flows.planning import budget_shares, corpora, planner, texts
from flows.planning.candidates import candidates, shipped_below
from flows.planning.corpora import Means, TextChoice
from flows.planning.forecast import Corpus, Speed
from flows.planning.measure import Measurement
from flows.planning.missed_paces import slowdown
from flows.planning.pace import expected_pace
from flows.planning.planner import ModelPlan
from flows.planning.site import Site
from flows.runner.run import AnyStep, Phase, Run, Step, StepsWanted, steps_of
from flows.supervision.model_files import ModelFiles
from nanogpt import durable
from nanogpt.config import LATER, Config, TrainingConfig, load_config, save_config, token_folder
from nanogpt.faults import UserError
from nanogpt.records import from_json, to_json
from nanogpt.tokenizers.vocabulary import likely_bytes_per_token
from nanogpt.training.progress import other_settings
from nanogpt.units import chosen_duration, count, counted, duration

NOT_ASKED_FOR: Json = {"too_large": None}  # among a plan's settings
OF_EVERY_PLAN = {"source", "tokenizer", "bpe_vocab_size", "mirror", "val_fraction", "test_fraction"}
SHORT_BUDGET = 300.0  # seconds; in less a model comes no further than to counting letters, or hardly
MOST_MEASUREMENTS = 3  # with a slow machine's tokens, with a small model's, and with those of the model that is chosen


def configuration(run: Run) -> None:
    if run.options.text_by_plan:  # begun in phase 2; if it failed there, here is another try
        run.do(SURVEYED)
    else:
        run.do(FETCHED)
    run.do(MEASURED)
    plan = run.do(PLANNED)
    run.journal.display.forecast(plan.forecast())
    ladder = plan.ladder
    run.milestone(
        "configuration",
        f"plan: {', then '.join(model.name for model in ladder)}",
        "\n".join(_in_words(run, model) for model in ladder),
        [run.paths.state / "plan.json", *(run.paths.config(model.name) for model in ladder)],
    )


def survey_texts(run: Run) -> StepResult[Surveyed]:
    """What could be learned from, and from where: asked for, and not fetched."""
    proof, budget = run.facts(DEVICE), run.config.budget
    fastest = max(proof.float32_flops or 0.0, proof.bfloat16_flops or 0.0)
    names = corpora.worth_asking_for(Means(fastest, budget, budget, 0, 0.0))
    found = texts.survey(run.config.data, names, run.paths.downloads, run.lost_texts.reasons())
    for text in found:
        run.journal.log(f"{text.name}: {text.obstacle or text.where}")
    if all(text.obstacle for text in found):
        raise UserError(f"data.source: {'; '.join(f'{text.name}: {text.obstacle}' for text in found)}")
    identity = [[text.name, text.bytes, bool(text.obstacle)] for text in found]
    return StepResult(Surveyed(found), identity=identity)


def measure_speed(run: Run) -> StepResult[Measured]:
    """Seconds per real step, and of what happens between steps, of each model that might be trained."""
    run.journal.display.settle()
    device = run.accelerator.current(run.facts(CHECKS).device)
    return StepResult(run.accelerator.run_on(device, MEASURED.step, lambda device: _measure_on(run, device)))


def _measure_on(run: Run, device: str) -> Measured:
    measurement, measured = _measured(run, device)
    if measurement.may_split_otherwise:
        chosen = _plan(run, measured).ladder[-1].config
        faster = measurement.faster_micro_batch(chosen, measured.models[chosen.name])
        measured = replace(measured, models={**measured.models, chosen.name: faster})
    if measurement.may_compile:
        model = _plan(run, measured).ladder[-1]
        tried = measurement.with_compiler(model.config, measured.models[model.name], model.seconds)
        run.journal.message(f"{model.name}: {tried.compiling}")
        measured = replace(measured, models={**measured.models, model.name: tried})
    return measured


def _measured(run: Run, device: str) -> tuple[Measurement, Measured]:
    """Each model with the tokens of its text. Where the plan says which, that follows from the speed, and the speed
    from the tokens: first with those that suit a slow machine, again with those that suit the one that was found."""
    if not run.options.text_by_plan:
        measurement = _measurement(run, device, _fetched_tokens(run), _fetched_corpus(run))
        return measurement, measurement.measure()
    choice = _choice(run, 0.0)
    for _ in range(MOST_MEASUREMENTS):
        measurement = _measurement(run, device, choice.tokens, choice.corpus(run.config.data))
        measured = replace(measurement.measure(), text=choice.tokens)
        better = _choice(run, _fastest(measured))
        if better.tokens == choice.tokens:
            break
        run.journal.message(f"{better.text.name} suits this machine and budget: models are measured with its tokens")
        choice = better
    return measurement, measured


def _choice(run: Run, flops_per_second: float, decided: TextTokens | None = None) -> TextChoice:
    """The text for so fast a machine; one that a plan chose before, for what is asked for now, stays."""
    before = _text_before(run)
    means = Means(
        flops_per_second,
        _training_seconds(run, 0),
        run.config.budget,
        shutil.disk_usage(run.paths.workspace).free,
        budget_shares.TEXT_RATE,
    )
    choice = corpora.choose(run.facts(SURVEYED).texts, means, run.config.data, before.tokens if before else decided)
    return replace(choice, bytes=before.wanted_bytes) if before and before.tokens == choice.tokens else choice


def _text_before(run: Run) -> PlannedText | None:
    planned = _planned_before(run) if _continues(run) else None
    return planned.text if planned else None


def _fastest(measured: Measured) -> float:
    """FLOP/s."""
    return max((model.flops_per_second for model in measured.models.values()), default=0.0)


def make_plan(run: Run) -> StepResult[Planned]:
    plan = _plan(run, run.facts(MEASURED))
    files = [run.paths.config(model.name) for model in plan.ladder]
    if plan.text:
        run.journal.message(texts.described(plan.text))
    for model, file in zip(plan.ladder, files, strict=True):
        save_config(model.config, file)
        run.journal.message(_in_words(run, model))
    if not any(_is_trained(run, model.name) for model in plan.ladder):
        _say_what_to_expect(run, plan.ladder)
    for row in plan.left_out:
        run.journal.message(f"{row.name} is left out: {row.reason}")
    facts = plan.facts([phase.name for phase in run.phases])
    plan_file = run.paths.state / "plan.json"
    durable.write_json(plan_file, to_json(facts))
    return StepResult(facts, [*files, plan_file])


def _in_words(run: Run, model: ModelPlan | PlannedModel) -> str:
    """What is planned for a model, or what there is of one that stays as it is."""
    if _is_trained(run, model.name) and (has := run.ledger.facts(trained(model.name))):
        return (
            f"{model.name}: trained before, {counted(has.step, 'step')}, {count(has.tokens)} tokens; it stays as it is"
        )
    return (
        f"{model.name}: about {model.steps:,} steps, {count(model.tokens)} tokens, {duration(model.seconds)} "
        f"({model.why}{_at_what_pace(model)})"
    )


def _at_what_pace(model: ModelPlan | PlannedModel) -> str:
    """Where the steps of a training are expected to take other than the measured seconds."""
    return "" if model.pace == 1 else f"; a step is expected to take {model.pace:.2f} times as long as was measured"


def _say_what_to_expect(run: Run, ladder: Sequence[ModelPlan]) -> None:
    """Of a budget in which no good model can be made."""
    if all(model.is_hopeless for model in ladder):
        run.journal.message(_too_little_time(run, ladder[-1]), "warning")
    elif run.config.budget < SHORT_BUDGET:
        enough = f"{chosen_duration(run.config.budget)} is enough to show that everything works here"
        run.journal.message(f"{enough}; a good model takes longer, such as --budget 10m")


def _too_little_time(run: Run, model: ModelPlan) -> str:
    budget = run.config.budget + 1.5 * (model.seconds_needed - model.seconds)
    return (
        f"{chosen_duration(run.config.budget)} are too little on this machine, as busy as it is now: {model.name} can "
        f"make only about {model.steps} steps and will learn next to nothing; use --budget {budget_of(budget)}"
    )


def _measurement(run: Run, device: str, tokens: TextTokens, corpus: Corpus) -> Measurement:
    return Measurement(
        options=run.options,
        site=Site.of(
            device,
            run.facts(DEVICE),
            corpus.alphabet_size or corpora.UNKNOWN_ALPHABET,
            by_torch=frozenset(
                config.name for config in run.options.candidates if _goes_on_by_torch(run, config, tokens)
            ),
        ),
        corpus=corpus,
        tokens=tokens,
        training_seconds=_training_seconds(run, _text_bytes(run)),
        folder=run.paths.state,
        worker=run.worker,
        limits=run.limits,
        journal=run.journal,
        written=sum(map(size_of, run.paths.own_folders())),
    )


def _plan(run: Run, measured: Measured) -> planner.Plan:
    data = run.config.data
    if not run.options.text_by_plan:
        found = {"data.source": run.facts(FETCHED).source, "data.tokenizer": _fetched_tokens(run).tokenizer}
        return _plan_of(run, measured, found, _fetched_corpus(run), run.facts(FETCHED).bytes)
    choice, before = _choice(run, _fastest(measured), measured.text), _text_before(run)

    def make(part: TextChoice) -> planner.Plan:
        return _plan_of(run, measured, part.settings, part.corpus(data), part.bytes)

    if before and before.tokens == choice.tokens:  # it is fetched, or being fetched
        return replace(make(choice), text=before)
    return corpora.plan_with(choice, data, make)


def _plan_of(
    run: Run, measured: Measured, of_text: Mapping[str, object], corpus: Corpus, text_bytes: int
) -> planner.Plan:
    device = run.accelerator.current(run.facts(CHECKS).device)
    asked = run.options.candidate_names
    considered = [
        config.with_changes({**of_text, "device.type": device})
        for config in candidates(run.options)
        if config.name in (*asked, *measured.models)
    ]
    return planner.make_plan(
        considered,
        {
            name: Speed.of(name, facts, expected_pace(facts, run.paths.all_states, run.session.started))
            for name, facts in measured.models.items()
        },
        measured.unmeasured,
        run.config.budget,
        _phase_seconds(run, text_bytes),
        corpus,
        Site.of(device, run.facts(DEVICE), corpus.alphabet_size).training_bytes,
        fixed=run.options.fixed and asked[0] in measured.models,
        pinned=run.options.pinned,
        trained=_trained(run),
        seconds=_training_seconds(run, text_bytes),
        begun=_begun(run, considered),
    )


def _is_training(run: Run) -> bool:
    return run.phase_runner.running() == "training"


def _continues(run: Run) -> bool:
    return _is_training(run) or run.session.number > 1


def _trained(run: Run) -> list[ModelPlan]:
    """The models of the plan before this one that the run's clock has paid for: they stay as they are, or continue.

    So it is in the training, and in another start of a run that was interrupted. Who asks for something else, or
    begins with the whole budget, gets a plan that is made afresh.
    """
    planned = _planned_before(run) if _continues(run) else None
    return [
        ModelPlan(
            config=load_config(run.paths.config(model.name)),
            parameters=model.parameters,
            tokens=model.tokens,
            seconds=model.seconds,
            memory_bytes=model.memory_bytes,
            expected_bits_per_byte=model.expected_bits_per_byte,
            why=model.why,
            pace=model.pace,
        )
        for model in (planned.ladder if planned else [])
        if _is_trained(run, model.name)
    ]


def _planned_before(run: Run) -> Planned | None:
    """The newest plan, where it was made for what is asked for now; what fits into memory, and which texts can be had,
    may have turned out since."""
    marker = run.ledger.finished_before(PLANNED.step)
    if marker is None:
        return None
    then, now = ({**settings, **NOT_ASKED_FOR} for settings in (marker.settings, _plan_settings(run)))
    try:
        planned = from_json(Planned, marker.facts) if durable.digest(then) == durable.digest(now) else None
    except ValueError:  # of another version
        return None
    is_lost = planned and planned.text and planned.text.name in run.lost_texts.reasons()
    return None if is_lost else planned


def _is_trained(run: Run, name: str) -> bool:
    step = next(step for step in steps_of(run.phases, [name], text=run.text_order) if step.key == trained(name))
    is_to_do = step.name in run.options.redo and not run.has_finished(step.key)
    with suppress(OSError, UserError):  # what its settings are read from is not there
        return not is_to_do and run.ledger.decide(step, step.settings(run)).keep
    return False


def _training_seconds(run: Run, text_bytes: int) -> float:
    """What the other phases leave of the budget, and of what is left of it: a busy machine has spent more by now."""
    phases, budget, done = _phase_seconds(run, text_bytes), run.config.budget, _trained(run)
    left = _seconds_left(run, phases)
    if done or _is_training(run):  # again, in its middle: what is gone is gone
        return max(budget_shares.LEAST_SECONDS, left) + sum(model.seconds for model in done)
    return min(budget_shares.training_seconds(budget, phases), max(budget_shares.LEAST_SHARE * budget, left))


def _seconds_left(run: Run, phases: dict[str, float]) -> float:
    """For the training, without the phases that are still to come."""
    later = sum(phases.get(name, 0.0) for name in _to_come(run))
    return run.clock.left - later - budget_shares.MARGIN * run.config.budget


def _goes_on_by_torch(run: Run, config: Config, tokens: TextTokens) -> bool:
    """Whether a training that began by torch's operators will go on; phase 5 sets aside what is another training."""
    return ModelFiles(run.paths.model(config.name)).goes_on_by_torch() and _goes_on(run, config, tokens.tokenizer)


def _begun(run: Run, configs: Iterable[Config]) -> dict[str, TrainingConfig]:
    """The settings of trainings of `configs` that will go on, whatever the plan that began them: those whose cool-down
    follows the clock."""
    begun = {}
    for config in configs:
        with suppress(OSError, UserError):  # none, or damaged: it begins anew
            before = load_config(run.paths.model(config.name) / "config.yaml")
            if before.training.schedule == "wsd" and _goes_on(run, config, config.data.tokenizer):
                begun[config.name] = before.training
    return begun


def _goes_on(run: Run, config: Config, tokenizer: str) -> bool:
    """Whether what the folder of `config` holds is the same training, but for what a plan decides."""
    if trained(config.name).step in run.options.redo:
        return False
    undecided = () if run.options.fixed else planner.SIZED - run.options.pinned
    folder, data = run.paths.model(config.name), run.paths.data / token_folder(tokenizer)
    try:
        return not other_settings(folder, config, data, undecided)
    except (OSError, ValueError):  # no such data yet: of another tokenizer
        return False


def _text_bytes(run: Run) -> int:
    """Bytes of the text where it is fetched; 0 where the plan has yet to say how many."""
    return 0 if run.options.text_by_plan else run.facts(FETCHED).bytes


def _to_come(run: Run) -> list[str]:
    return [record.name for record in run.phase_runner.records if record.status == "waiting"]


def _phase_seconds(run: Run, text_bytes: int) -> dict[str, float]:
    """What the phases but training take, as slow as this machine has proved in this run."""
    records = [step for record in run.phase_runner.records for step in run.step_runner.records(record.name)]
    return budget_shares.expected(
        run.paths.all_states,
        run.config.budget,
        text_bytes,
        run.session.started,
        {step.name: step.seconds for step in records if step.state == "done"},
        _slowdown(run),
    )


def _slowdown(run: Run) -> float:
    """Of the trainings, against the plan before this one; 0 before any."""
    planned = _planned_before(run)
    models = [model for model in (planned.ladder if planned else []) if run.has_finished(trained(model.name))]
    return max((slowdown(model, run.facts(trained(model.name))) for model in models), default=0.0)


def _fetched_corpus(run: Run) -> Corpus:
    fetched, data = run.facts(FETCHED), run.config.data
    per_character = fetched.bytes / fetched.characters
    bytes_per_token = likely_bytes_per_token(_fetched_tokens(run).tokenizer, data.bpe_vocab_size, per_character)
    return Corpus(
        fetched.bytes, fetched.characters, fetched.alphabet_size, data.val_fraction, data.test_fraction, bytes_per_token
    )


def _fetched_tokens(run: Run) -> TextTokens:
    fetched, data = run.facts(FETCHED), run.config.data
    tokenizer = planner.tokenizer_for(data.tokenizer, fetched.bytes, fetched.alphabet_size)
    return TextTokens(fetched.source, tokenizer, data.bpe_vocab_size)


LATER_DEVICE = {"attention", "newton_schulz", "kernels"}


def _survey_settings(run: Run) -> Json:
    """Another budget asks again: a network may be there by now."""
    data = run.config.data.model_dump(include={"source", "mirror"})
    return {"budget": run.config.budget, "data": data, **run.lost_texts.settings()}


def _measure_settings(run: Run) -> Json:
    """Shapes and batch decide the speed; learning rates and schedules do not."""
    return {
        "budget": run.config.budget,
        "device": _device_settings(run),
        **_too_large(run),
        **run.missed_paces.settings(),
        "models": {
            config.name: {
                "model": config.model.model_dump(),
                "batch_size": config.training.batch_size,
                "gradient_accumulation": config.training.gradient_accumulation,
                "gradient_checkpointing": config.device.gradient_checkpointing,
                "optimizer": config.training.optimizer,
                "tokenizer": config.data.tokenizer,
            }
            for config in run.options.candidates
        },
    }


def _too_large(run: Run) -> Json:
    """What did not fit into memory: with one more, or with memory for it, there is another plan to make."""
    fetched, proof, checks = run.ledger.facts(FETCHED), run.ledger.facts(DEVICE), run.ledger.facts(CHECKS)
    measured = run.ledger.facts(MEASURED)
    tokens = measured.text if measured else None
    if proof is None or checks is None or (fetched is None and tokens is None):
        return {}
    alphabet_size = fetched.alphabet_size if fetched else 0
    site = Site.of(run.accelerator.current(checks.device), proof, alphabet_size or corpora.UNKNOWN_ALPHABET)
    known = {"data.tokenizer": tokens.tokenizer, "data.bpe_vocab_size": tokens.vocabulary} if tokens else {}

    def too_large(configs: Iterable[Config]) -> dict[str, str]:
        return run.limits.too_large([config.with_changes(known) for config in configs], site)

    found = too_large(run.options.candidates)
    return {"too_large": sorted(found | too_large(shipped_below(run.options)))} if found else {}


def _plan_settings(run: Run) -> Json:
    return {
        "budget": run.config.budget,
        "data": _data_settings(run),
        "device": _device_settings(run),
        **_too_large(run),
        "models": {config.name: _recipe(config) for config in run.options.candidates},
        "pinned": sorted(run.options.pinned),
    }


def _device_settings(run: Run) -> Json:
    """What came when runs were under way counts where a person chose it: their plans and models are kept."""
    device = run.config.device
    return device.model_dump(exclude=LATER_DEVICE) | device.model_dump(include=LATER_DEVICE, exclude_defaults=True)


def _recipe(config: Config) -> Json:
    training = config.training.model_dump()
    for setting, default in LATER.items():
        key = setting.removeprefix("training.")
        if training[key] == default:
            del training[key]
    return {"model": config.model.model_dump(), "training": training}


def _data_settings(run: Run) -> Json:
    """What there was no choice of before counts where a person chose; how a text is read counts where it is fetched."""
    data = run.config.data
    return data.model_dump(include=OF_EVERY_PLAN) | data.model_dump(exclude={"encoding"}, exclude_defaults=True)


PLANNING = (
    "flows/phases/configuration.py",
    "flows/planning/**",
    "nanogpt/measure/sizes.py",
    "nanogpt/tokenizers/vocabulary.py",
    "nanogpt/config.py",
)
MEASURING = (
    *PLANNING,
    "nanogpt/measure/**",
    "nanogpt/fit.py",
    "nanogpt/device.py",
    "nanogpt/model/**",
    "nanogpt/kernels/**",
    "nanogpt/training/*.py",
    "nanogpt/training/update/**",
    "nanogpt/inference/**",
    "nanogpt/decoders/**",
    "nanogpt/data/augmentation.py",
    "nanogpt/data/data_loader.py",
    "nanogpt/data/order.py",
    "nanogpt/data/shard_file.py",
    "nanogpt/data/shards.py",
    "nanogpt/weights/checkpoint.py",
    "nanogpt/weights/manifest.py",
)


def steps(wanted: StepsWanted) -> list[AnyStep]:
    """The text is fetched before anything is measured, or surveyed, and fetched as the plan says."""
    text = FETCHED.step if wanted.text == "first" else SURVEYED.step
    survey = Step(
        key=SURVEYED,
        title="Find the available texts",
        work=survey_texts,
        settings=_survey_settings,
        needs=("environment.device",),
        code=("flows/phases/configuration.py", "flows/planning/**", "nanogpt/sources/**"),
        costly=True,
    )
    measure = Step(
        key=MEASURED,
        title="Measure the speed of each model",
        work=measure_speed,
        settings=_measure_settings,
        needs=("implementation.checks", text),
        code=MEASURING,
        costly=True,
    )
    plan = Step(
        key=PLANNED,
        title="Plan which models to train, and write their YAML",
        work=make_plan,
        settings=_plan_settings,
        needs=("configuration.measure", text, "implementation.checks"),
        code=PLANNING,
        costly=True,
        decides=True,
    )
    return [measure, plan] if wanted.text == "first" else [survey, measure, plan]


PHASE = Phase("configuration", configuration, steps)
