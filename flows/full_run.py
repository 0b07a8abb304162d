"""The one command: python -m flows.full_run [--budget 10m]

From nothing to a trained, evaluated, exported and documented GPT. Kill it at any time; the same command goes on.
"""

import sys

if __name__ == "__main__":  # before any other import: outside a suitable environment this makes one and starts again
    from flows.bootstrap import ensure
    from nanogpt import standard_streams

    standard_streams.make_usable()
    ensure("flows.full_run", sys.argv[1:], answers="flows.cli.answers")

from flows.cli import session
from flows.phases.configuration import configuration
from flows.phases.dataset import FETCH, dataset
from flows.phases.deployment import deployment
from flows.phases.documentation import documentation
from flows.phases.environment import environment
from flows.phases.evaluation import evaluation
from flows.phases.implementation import implementation
from flows.phases.training import training


def full_run(run):
    """The eight phases, in order. Each is a task whose steps are tasks within it; finished steps are kept."""
    run.phase("environment", environment)  #        is this machine enough, and does its device compute?
    text = run.ahead(FETCH)  #                      the network is idle while the processor proves the model
    run.phase("implementation", implementation)  #  does every part of the model do what its paper says?
    run.phase("configuration", configuration, text)  # which models does the budget allow, measured here?
    run.phase("dataset", dataset)  #                clean, split, tokenise
    run.phase("training", training)  #              in a child process, small first
    run.phase("evaluation", evaluation)  #          on text that no model saw, against baselines
    run.phase("deployment", deployment)  #          export the best, run every example on it
    run.phase("documentation", documentation)  #    report, cards and guides, whatever happened


def main(argv):
    """Exit code: 0 all done, 1 a phase failed (the report says why), 2 a person's mistake, 130 stopped."""
    return session.main(argv, full_run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
