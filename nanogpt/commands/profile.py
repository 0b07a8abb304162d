"""Show what training steps spend their time on: tokens and FLOP a second, and the share of each part.

With --submit, measure each way that a step can be computed on this machine, and write one file that can be sent.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile

from nanogpt.commands.arguments import PICTURES, add_model, path, positive, require_file
from nanogpt.faults import UserError

HELP = "show what training steps spend their time on"
CONFIGS = Path(__file__).parents[2] / "configs"
SUBMITTED = ("micro", "tiny_model")  # so that machines compare; accelerators also the next
OF_ACCELERATORS = "small_model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, optional=True)
    parser.add_argument("--steps", type=positive(int), default=20, help="to time (default: %(default)s)")
    parser.add_argument("--data", type=path, metavar="DIR", help="folder of tokenised data (default: random tokens)")
    parser.add_argument("--picture", type=path, metavar="FILE", help="draw the result, as .svg or .png")
    parser.add_argument("--trace", type=path, metavar="FILE", help="record steps for chrome://tracing or Perfetto")
    sent = parser.add_argument_group("figures to send (docs/mps.md)", "without CONFIG: for the models in configs/")
    sent.add_argument("--submit", type=path, metavar="FILE", help="measure every way to compute a step, as JSON")
    seconds = "seconds of steps for each way (default: %(default)g)"
    sent.add_argument("--seconds", type=positive(float), default=3.0, help=seconds)
    sent.add_argument(
        "--compile", action="store_true", help="measure torch.compile too, a minute or more for each precision"
    )
    sent.add_argument("--read", type=path, nargs="+", metavar="FILE", help="print such files as rows of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; draw and record what was asked for. Or write a submission, or print some."""
    if arguments.read:
        return _read(arguments.read)
    if arguments.submit:
        return _submit(arguments)
    if arguments.config is None:
        raise UserError("CONFIG is missing; name a YAML file, such as configs/micro.yaml")
    require_file("--picture", arguments.picture, PICTURES)
    require_file("--trace", arguments.trace)
    from nanogpt.commands.chosen_model import model_config  # pydantic, rich, torch: --help does without
    from nanogpt.commands.measure_tables import show_profile

    config, tokens, split = model_config(arguments), None, None
    if arguments.data is not None:
        from nanogpt.data.shards import open_split, verify

        verify(arguments.data)
        train, val = (open_split(arguments.data, name) for name in ("train", "val"))
        config = config.with_changes({"model.vocab_size": train.vocab_size})
        tokens, split = train.tokens, val.tokens
    from nanogpt.measure.profiler import profile

    found = profile(config, arguments.steps, tokens, split, arguments.trace)
    show_profile(config.name, found)
    if arguments.picture:
        from nanogpt.plots.measurements import profile_plot

        facts = {**asdict(found), "shares": found.shares}
        print(f"picture  {profile_plot(config.name, facts, arguments.picture)}")
    if arguments.trace:
        print(f"trace    {arguments.trace}")
    return 0


def _submit(arguments: argparse.Namespace) -> int:
    _require_place_for(arguments.submit)
    for option in ("data", "picture", "trace"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option}: not with --submit, which measures on random tokens and draws nothing")
    from nanogpt.commands.chosen_model import model_config  # pydantic, torch: --help does without
    from nanogpt.commands.progress import progress_lines
    from nanogpt.measure.submission import Device, table, write

    named = arguments.config
    if named is None and not CONFIGS.is_dir():
        raise UserError("CONFIG is missing, and this installation has no folder configs; name a YAML file")
    with progress_lines("loading torch") as show:
        from nanogpt import device as devices
        from nanogpt.measure.submitting import submission

        chosen = devices.choose(arguments.device or "auto").device
        device: Device = "mps" if chosen == "mps" else "cuda" if chosen == "cuda" else "cpu"
        names = [*SUBMITTED, OF_ACCELERATORS] if device != "cpu" else SUBMITTED
        configs = []
        for file in [named] if named is not None else [str(CONFIGS / f"{name}.yaml") for name in names]:
            arguments.config = file
            config = model_config(arguments)
            configs.append(config if named is None else config.with_changes({"name": "own"}))  # a name may be private
        found = submission(configs, device, arguments.seconds, arguments.compile, show)
    print(table([found]), end="", flush=True)  # first: the disk may have become full in these minutes
    write(arguments.submit, found)
    print(f"written to {arguments.submit}: it names this machine's chip and programs, and nothing of you")
    return 0


def _require_place_for(file: Path) -> None:
    """Raise UserError where no such file can be written, before the minutes of measuring that are for it."""
    require_file("--submit", file, (".json",))
    folder = next(folder for folder in file.parents if folder.is_dir())
    try:
        with TemporaryFile(dir=folder) as attempt:
            attempt.write(bytes(1))
    except OSError as error:
        raise UserError(f"--submit {file}: cannot be written: {error.strerror}; choose another folder") from None


def _read(files: list[Path]) -> int:
    from nanogpt.measure.submission import read, table  # pydantic: --help does without

    print(table([read(file) for file in files]), end="")
    return 0
