"""The parts of the model put to the proof, one experiment each: what is changed, what should happen, what did.

Each part is also broken on purpose, to show that the experiment notices. It takes seconds, and needs no model.
"""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import add_device, chosen_device, require_folder, seed
from nanogpt.commands.studies.subjects import add_out

HELP = "experiments on the model's parts: what is changed, what should happen, what happened"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of weights and tokens (default: %(default)s)"
    )
    add_device(parser)
    add_out(parser, "components")


def run(arguments: argparse.Namespace) -> int:
    """Print each experiment as it ends, and write components.json and the figure; 1 if one does not hold."""
    require_folder("--out", arguments.out)
    from nanogpt import durable  # torch and matplotlib: --help does without
    from nanogpt.plots.components import components_plot
    from nanogpt.records import to_json
    from nanogpt.study.experiments import in_words, run_experiments

    made = []
    for experiment in run_experiments(chosen_device(arguments.device), arguments.seed):
        print(f"{in_words(experiment)}\n", flush=True)
        made.append(experiment)
    failed = [experiment.title for experiment in made if not experiment.holds]
    verdict = f"These do not hold: {', '.join(failed)}." if failed else f"All {len(made)} experiments hold."
    out = arguments.out
    durable.write_json(out / "components.json", [to_json(experiment) for experiment in made])
    print("\n".join([verdict, str(out / "components.json"), str(components_plot(made, out / "components.svg"))]))
    return 1 if failed else 0
