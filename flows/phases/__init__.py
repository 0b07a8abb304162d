"""The eight phases, one file each. A phase is a function of the run and a list of the steps it does."""

from collections.abc import Sequence

from flows.ledger.ledger import Step


def steps_of(models: Sequence[str], tests: bool = True) -> list[Step]:
    """Every step of a run that trains `models`, in order; `tests`: the project's own are among them."""
    from flows.phases import (
        configuration,
        dataset,
        deployment,
        documentation,
        environment,
        evaluation,
        implementation,
        training,
    )

    made = [
        *environment.STEPS, *implementation.STEPS, *configuration.STEPS, *dataset.STEPS, *training.steps(models),
        *evaluation.steps(models, tests), *deployment.STEPS,
    ]  # fmt: skip
    return [*made, *documentation.steps(made)]
