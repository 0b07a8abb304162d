"""What the arguments of several commands have in common."""

import argparse
import contextlib
import math
import sys


def positive(kind: type):
    """An argparse type: an int or float above 0."""

    def parse(text: str):
        with contextlib.suppress(ValueError):
            value = kind(text)
            if 0 < value < math.inf:
                return value
        raise argparse.ArgumentTypeError(f"found {text!r}, should be a {'whole ' * (kind is int)}number above 0")

    return parse


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "mps", "cuda"), default="auto", help="default: the best there is"
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. training.learning_rate=3e-4; repeatable"
    )


def chosen_device(asked: str) -> str:
    """The device to compute on; on stderr, when it is not the one that was asked for."""
    from nanogpt import device

    chosen = device.choose(asked)
    if chosen.warning:
        print(f"nanogpt: {chosen.warning}", file=sys.stderr)
    return chosen.device
