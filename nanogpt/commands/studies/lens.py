"""What the model would say after each layer, and how surprised it is by each token: figures and a coloured page."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import require_folder
from nanogpt.commands.studies.subjects import add_out, add_subject, text_of

HELP = "predictions layer by layer, and the surprise at each token as a coloured page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject(parser)
    add_out(parser, "lens")


def run(arguments: argparse.Namespace) -> int:
    """Write the figures, surprise.html and lens.json; print what is to be seen."""
    require_folder("--out", arguments.out)
    text = text_of(arguments)
    # torch and matplotlib: --help does without
    from nanogpt import durable
    from nanogpt.plots.study import lens_layers_plot, lens_plot
    from nanogpt.records import to_json
    from nanogpt.study.lens import study_lens, study_surprise
    from nanogpt.study.subject import open_subject
    from nanogpt.study.surprise_page import write_page

    subject = open_subject(arguments.model, arguments.data, text)
    lens, surprise = study_lens(subject, text), study_surprise(subject, text)
    out = arguments.out
    page, figures = out / "lens.json", [lens_plot(lens, out / "lens.svg"), lens_layers_plot(lens, out / "layers.svg")]
    files = [*figures, write_page(surprise, out / "surprise.html"), page]
    durable.write_json(page, {"lens": to_json(lens), "surprise": to_json(surprise)})
    print(*lens.findings, *surprise.findings, *files, sep="\n")
    return 0
