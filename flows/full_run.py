"""The one command: python -m flows.full_run [--budget 10m]

From nothing to a trained, evaluated, exported and documented GPT. Kill it at any time; the same command continues.
"""

import sys

if __name__ == "__main__":  # before any other import: outside a suitable environment this makes one and starts again
    from flows.bootstrap import ensure
    from nanogpt import standard_streams

    standard_streams.make_usable()
    ensure("flows.full_run", sys.argv[1:], answers="flows.cli.answers")

from flows.cli import session
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
from flows.runner.run import Run

PHASES = (
    environment.PHASE,  #     is this machine enough, and does its device compute?
    implementation.PHASE,  #  does every part of the model do what its paper says? The text is fetched meanwhile
    configuration.PHASE,  #   which models does the budget allow, measured here?
    dataset.PHASE,  #         clean, split, tokenise
    training.PHASE,  #        in a child process, small first
    evaluation.PHASE,  #      on text that no model saw, against baselines
    deployment.PHASE,  #      export the best, run every example on it
    documentation.PHASE,  #   report, cards and guides, whatever happened
)


def full_run(run: Run) -> None:
    """The phases, in order. Each is a task whose steps are tasks within it; finished steps are kept."""
    for phase in PHASES:
        run.run_phase(phase)


def main(argv: list[str]) -> int:
    """Exit code: 0 all done, 1 a phase failed (the report says why), 2 a person's mistake, 130 stopped."""
    return session.main(argv, PHASES, full_run)


if __name__ == "__main__":
    session.leave(main(sys.argv[1:]))
