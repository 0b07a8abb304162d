"""Which tokens the model treats alike: the nearest neighbours of each, and a map of all in two dimensions."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import named, require_folder
from nanogpt.commands.studies.subjects import add_out, add_subject, text_of
from nanogpt.faults import UserError

HELP = "nearest neighbours and a map of the tokens"
PRINTED = 8  # tokens whose neighbours are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject(parser)
    near = "print the neighbours of this token (repeatable; default: of the most frequent ones)"
    parser.add_argument("--near", action="append", type=named, default=[], metavar="TOKEN", help=near)
    table = "what a token is read as, or what the head compares with (default: %(default)s)"
    parser.add_argument("--table", choices=("embedding", "head"), default="embedding", help=table)
    add_out(parser, "embeddings")


def run(arguments: argparse.Namespace) -> int:
    """Write map.svg and embeddings.json; print the neighbours and what is to be seen."""
    require_folder("--out", arguments.out)
    text = text_of(arguments)
    # torch and matplotlib: --help does without
    from nanogpt import durable
    from nanogpt.plots.study import embeddings_plot
    from nanogpt.records import to_json
    from nanogpt.study.embeddings import study_embeddings
    from nanogpt.study.subject import open_subject

    study = study_embeddings(open_subject(arguments.model, arguments.data, text), text, arguments.table)
    tokens = {token.token: token for token in study.tokens}
    for wanted in arguments.near:
        if wanted not in tokens:
            raise UserError(f"--near {wanted!r}: is not among the {len(tokens)} most frequent tokens of the text")
    files = [embeddings_plot(study, arguments.out / "map.svg"), arguments.out / "embeddings.json"]
    durable.write_json(files[-1], to_json(study))
    for token in [tokens[name] for name in arguments.near] or study.tokens[:PRINTED]:
        print(f"{token.token!r:>8}  ", ", ".join(f"{name!r} {similarity:.2f}" for name, similarity in token.nearest))
    print(*study.findings, *files, sep="\n")
    return 0
