"""What each attention head looks at on a text, how sharply, and its role; over the checkpoints of a training too."""

from __future__ import annotations

import argparse
from pathlib import Path

from nanogpt.commands.arguments import positive, require_folder
from nanogpt.commands.studies.subjects import add_out, add_subject, text_of
from nanogpt.faults import UserError

HELP = "what each head looks at, how sharply, and its role"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject(parser)
    parser.add_argument("--layer", type=positive(int), metavar="N", help="of the head drawn large, from 1")
    parser.add_argument("--head", type=positive(int), metavar="N", help="the head drawn large (default: the clearest)")
    add_out(parser, "attention")


def run(arguments: argparse.Namespace) -> int:
    """Write the figures and attention.json; print what is to be seen."""
    require_folder("--out", arguments.out)
    text = text_of(arguments)
    # torch and matplotlib: --help does without
    from nanogpt import durable
    from nanogpt.plots import study as plots
    from nanogpt.records import to_json
    from nanogpt.study.attention import clearest, study_attention
    from nanogpt.study.subject import open_subject

    subject = open_subject(arguments.model, arguments.data, text)
    config = subject.model.config
    for option, wanted, there in (("layer", arguments.layer, config.n_layer), ("head", arguments.head, config.n_head)):
        if wanted is not None and wanted > there:
            raise UserError(f"--{option} {wanted}: the model has {option}s 1 to {there}")
    study, weights = study_attention(subject, text)
    head = clearest(study, arguments.layer, arguments.head)
    maps = weights.double().numpy()
    out = arguments.out
    files = [
        plots.heads_plot(study, out / "heads.svg"),
        plots.entropy_plot(study, out / "entropy.svg"),
        plots.maps_plot(maps, out / "maps.svg"),
        plots.head_plot(study.tokens, maps[head.layer - 1, head.head - 1], head.name, out / "head.svg"),
    ]
    if study.checkpoints:
        files.append(plots.checkpoint_entropy_plot(study, out / "entropy-over-checkpoints.svg"))
        files.append(
            plots.attention_entropy_plot(Path(arguments.model).expanduser(), out / "entropy-over-training.svg")
        )
    files.append(out / "attention.json")
    durable.write_json(files[-1], to_json(study))
    print("\n".join(study.findings))
    print(*files, sep="\n")
    return 0
