"""The eight phases, one file each. A phase is a function of the run and a list of the steps it does."""

from collections.abc import Sequence

from flows.ledger import Step


def steps_of(models: Sequence[str]) -> list[Step]:
    """Every step of a run that trains `models`, in order."""
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

    return [
        *environment.STEPS, *implementation.STEPS, *configuration.STEPS, *dataset.STEPS, *training.steps(models),
        *evaluation.steps(models), *deployment.STEPS, *documentation.steps(models),
    ]  # fmt: skip
