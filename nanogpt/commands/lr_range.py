"""Learning-rate range test: a training's first steps with a rising learning rate, and the rate that this suggests."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import PICTURES, add_overrides, path, positive, require_file
from nanogpt.faults import UserError
from nanogpt.results.speed import RangeTest

HELP = "suggest a learning rate, by first steps with a rising one"
ROWS = 14  # of the table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=path, metavar="CONFIG", help="YAML file, such as configs/tiny_model.yaml")
    parser.add_argument("--data", type=path, required=True, metavar="DIR", help="folder of tokenised data")
    parser.add_argument(
        "--from",
        dest="first",
        type=positive(float),
        default=0.01,
        metavar="FACTOR",
        help="on every peak learning rate of CONFIG, Muon's and AdamW's together (default: %(default)s)",
    )
    parser.add_argument(
        "--to", dest="last", type=positive(float), default=100.0, metavar="FACTOR", help="default: %(default)s"
    )
    parser.add_argument("--steps", type=positive(int), default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--picture", type=path, metavar="FILE.svg", help="draw the loss over the factor")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table and the suggestion."""
    require_file("--picture", arguments.picture, PICTURES)
    from nanogpt.commands.progress import progress_lines
    from nanogpt.config import load_config  # pydantic, and torch below: --help does without

    if arguments.last <= arguments.first:
        raise UserError(f"--to {arguments.last:g}: should be above --from {arguments.first:g}")
    config = load_config(arguments.config, arguments.set)
    if arguments.steps < 20:
        raise UserError(f"--steps {arguments.steps}: found too few to see a curve, should be at least 20")
    with progress_lines("loading torch") as show:
        from nanogpt.measure.learning_rate_range import learning_rate_range, peaks

        def on_step(step: int, factor: float, loss: float) -> None:
            show(f"step {step + 1}/{arguments.steps}  factor {factor:.4g}  loss {loss:.3f}")

        found = learning_rate_range(config, arguments.data, arguments.first, arguments.last, arguments.steps, on_step)
    rates = peaks(config.training)
    print(table(found, rates))
    print(conclusion(found, rates))
    if arguments.picture:
        from nanogpt.plots.measurements import learning_rate_range_plot

        learning_rate_range_plot(found, config.name, arguments.picture)
        print(f"picture: {arguments.picture}")
    return 0


def table(found: RangeTest, rates: dict[str, float]) -> str:
    """About ROWS of the steps: factor, the rates that it makes, loss."""
    names = [name.removeprefix("training.") for name in rates]
    lines = ["  ".join(["    factor", *(f"{name:>{max(10, len(name))}}" for name in names), "loss, smoothed"])]
    stride = max(1, len(found.factors) // ROWS)
    for step in range(0, len(found.factors), stride):
        factor = found.factors[step]
        values = [f"{factor * rate:{max(10, len(name))}.3g}" for name, rate in zip(names, rates.values(), strict=True)]
        lines.append("  ".join([f"{factor:10.4g}", *values, f"{found.smoothed[step]:14.4f}"]))
    return "\n".join(lines)


def conclusion(found: RangeTest, rates: dict[str, float]) -> str:
    """The suggestion and how it is found, or why there is none."""
    if found.suggested is None:
        return "The loss never falls: no suggestion. Begin lower (--from), or look at the data."
    lines = [f"The loss falls fastest at factor {found.steepest:.3g} and is lowest at {found.lowest:.3g}."]
    if not found.rises_again:
        lines.append("It does not rise again up to the last factor: --to a higher one would say more.")
    settings = " ".join(f"--set {name}={found.suggested * rate:.2g}" for name, rate in rates.items())
    lines.append(f"Suggested: factor {found.suggested:.2g}, half way between the two on the logarithmic axis:")
    return "\n".join([*lines, f"  {settings}"])
