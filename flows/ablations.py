"""Break the model: python -m flows.ablations [--budget 20m] [--only NAMES] [--seeds N] [--task-runner dask]

Small trainings that differ from a control in one thing each, every one a task; a table, a figure and what is to be seen
in them. Kill it at any time; the same command continues.
"""

import sys

if __name__ == "__main__":  # before any other import: outside a suitable environment this makes one and starts again
    from flows.bootstrap import ensure
    from nanogpt import standard_streams

    standard_streams.make_usable()
    ensure("flows.ablations", sys.argv[1:], extras=["dask"] if "dask" in " ".join(sys.argv) else [])

from collections.abc import Sequence

from flows.cli import ablation_options, session
from flows.cli.command_line import check_steps
from flows.context.options import RunOptions
from flows.ledger.facts import BYTE_PAIRS, CHARACTERS, CLEANED, FETCHED, Key, Tokenised
from flows.phases import ablations, dataset
from flows.runner.run import Phase, Run
from nanogpt.study.variants import CONTROL, chosen


def do_phases(run: Run) -> None:
    """The text, the trainings, their table: the phases, in order. What is finished is kept."""
    for phase in run.phases:
        run.run_phase(phase)


def text_as(tokens: Key[Tokenised]) -> Phase:
    """The text as the control's tokens."""

    def prepare(run: Run) -> None:
        run.do(FETCHED)
        run.do(CLEANED)
        run.do(tokens)

    wanted = [FETCHED, CLEANED, tokens]
    return Phase("dataset", prepare, lambda _: [step for step in dataset.STEPS if step.key in wanted])


def main(argv: list[str]) -> int:
    """Exit code: 0 all done, 1 a training failed (the others are compared), 2 a person's mistake, 130 stopped."""

    def asked() -> tuple[RunOptions, Sequence[Phase]]:
        options = ablation_options.parse(argv)
        control = options.control
        tokens = CHARACTERS if control.data.tokenizer in ("auto", "char") else BYTE_PAIRS
        variants = [CONTROL, *chosen(options.only, control)]
        study = ablations.Study(
            control, variants, options.seeds, options.steps, tokens, options.task_runner, options.workers,
            options.address,
        )  # fmt: skip
        phases = (text_as(tokens), *ablations.phases(study))
        check_steps(options.run.redo, phases, [control])
        return options.run, phases

    return session.start(asked, do_phases, ablations.last_words)


if __name__ == "__main__":
    session.leave(main(sys.argv[1:]))
