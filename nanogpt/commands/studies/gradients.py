"""Take a few training steps from a model, and see how they reach its weights.

Gradient norm and update-to-weight ratio of each group of parameters, through depth and time; the residual stream by
block, and dead units. The model on the disk stays as it is.
"""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import add_device, add_overrides, chosen_device, positive, require_folder
from nanogpt.commands.studies.subjects import add_out, add_subject, text_of

HELP = "gradients and updates by layer over a few steps, dead units, growth of the residual stream"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject(parser)
    parser.add_argument("--steps", type=positive(int), default=20, metavar="N", help="default: %(default)s")
    factor = "on the peak learning rates (default: of a trained model that of its last step, else the schedule's)"
    parser.add_argument("--factor", type=positive(float), metavar="F", help=factor)
    add_overrides(parser)
    add_device(parser)
    add_out(parser, "gradients")


def run(arguments: argparse.Namespace) -> int:
    """Write the figures and gradients.json, and print what is to be seen."""
    require_folder("--out", arguments.out)
    from nanogpt import durable  # torch, matplotlib and pydantic: --help does without
    from nanogpt.commands.progress import progress_lines
    from nanogpt.plots.gradients import gradients_plot, residual_plot, updates_plot
    from nanogpt.records import to_json
    from nanogpt.study.gradients import gradient_study, last_factor, settings_of, tokens_of_data
    from nanogpt.study.subject import open_subject

    has_text = arguments.text is not None or arguments.file is not None
    text = "" if arguments.data is not None and not has_text else text_of(arguments)
    subject = open_subject(arguments.model, arguments.data, text)
    config = settings_of(arguments.model, arguments.set)
    factor = arguments.factor or last_factor(arguments.model, config)
    device = chosen_device(arguments.device)
    tokens = subject.ids_of(text) if has_text else tokens_of_data(subject, arguments.data)
    with progress_lines("taking steps") as show:

        def on_step(step: int, loss: float) -> None:
            show(f"step {step}/{arguments.steps}  loss {loss:.3f}")

        study = gradient_study(subject, config, tokens, arguments.steps, factor, device, on_step)
    arguments.out.mkdir(parents=True, exist_ok=True)
    durable.write_json(arguments.out / "gradients.json", to_json(study))
    written = [
        arguments.out / "gradients.json",
        gradients_plot(study, arguments.out / "gradients.svg"),
        updates_plot(study, arguments.out / "updates.svg"),
        residual_plot(study, arguments.out / "residual.svg"),
    ]
    print("\n".join([*study.findings, *map(str, written)]))
    return 0
