"""Compare trainings: a table, their curves laid over one another, the settings that differ, and which difference is
more than chance."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import add_device, chosen_device, path, print_markdown, require_folder
from nanogpt.faults import UserError

HELP = "compare trainings: table, curves, settings, and which differences are more than noise"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run = "a model's training folder, or checkpoints/RUN of a workspace: its best model"
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN", help=run)
    data = "tokens to evaluate on, from nanogpt prepare (default: those that the first RUN learned from)"
    parser.add_argument("--data", type=path, metavar="DIR", help=data)
    parser.add_argument("--split", choices=("val", "test"), default="val", help="default: %(default)s")
    add_device(parser)
    out = "folder for the page, the figures and the JSON file (default: %(default)s)"
    parser.add_argument("--out", type=path, default="comparison", metavar="DIR", help=out)


def run(arguments: argparse.Namespace) -> int:
    """Print the table and what is to be seen; write the page, the figures and comparison.json."""
    require_folder("--out", arguments.out)
    from nanogpt import durable  # torch, matplotlib and pydantic: --help does without
    from nanogpt.commands.progress import progress_lines
    from nanogpt.plots.comparison import curves_plot, differences_plot
    from nanogpt.records import to_json
    from nanogpt.study.comparison import compare_runs
    from nanogpt.study.comparison_page import as_html, as_markdown
    from nanogpt.study.runs import distinct_names, trained_run

    runs = [trained_run(place) for place in arguments.runs]
    data = arguments.data or runs[0].data_folder()
    if data is None:
        raise UserError(f"which text? --data DIR: the tokens that {arguments.runs[0]} learned from")
    with progress_lines("reading the runs") as show:
        device = chosen_device(arguments.device)
        compared = compare_runs(runs, data, arguments.split, device, lambda name: show(f"judging {name}"))
    out = arguments.out
    curves = {name: (run.rows, run.evaluations) for name, run in zip(distinct_names(runs), runs, strict=True)}
    figures = [
        ("bits per byte over tokens and over time", curves_plot(curves, out / "curves.svg")),
        ("differences from the best run, with their noise", differences_plot(compared, out / "differences.svg")),
    ]
    durable.write_json(out / "comparison.json", to_json(compared))
    durable.write_page(out / "comparison.html", as_html(compared, figures))
    print_markdown(as_markdown(compared) + "\n")
    print(
        "\n".join(str(out / name) for name in ("comparison.html", "comparison.json", "curves.svg", "differences.svg"))
    )
    return 0
