"""What is no plain file in the place of one: a FIFO, a folder, a device, a link to itself, a socket.

A FIFO makes a program wait that opens it, a folder can be neither replaced nor deleted as a file can, a device swallows
what is written to it. All are set aside, and the file is made again as if it had been deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.faults.kinds.damage import NO_FILES, inflict_all
from bench.faults.stage.finding import Finding
from bench.faults.stage.kind import Kind
from bench.faults.stage.scene import RUN, Scene
from bench.faults.stage.verdict import judge

SECONDS = 1500.0  # five runs


def in_place_of(files: Callable[[Scene], list[Path]]) -> Callable[[Scene], Finding]:
    def inflict(scene: Scene) -> Finding:
        times = 0
        for turn in range(1 if scene.small else len(NO_FILES)):
            if turn > 0:
                scene.again()
            chosen = files(scene)
            inflict_all(chosen, turn, NO_FILES)
            scene.run("--status")
            scene.run()
            judge(scene, exact=True)
            times += len(chosen)
        return Finding(scene.noticed("set aside|missing|damaged|cannot be read"), "set aside, made again", times=times)

    inflict.__doc__ = files.__doc__
    return inflict


def of_the_state(scene: Scene) -> list[Path]:
    """A FIFO, a folder, a device, a link to itself or a socket in the place of each file in the state of a finished
    run, in turns; --status and the run itself."""
    files = [*plain_files(scene.state), *plain_files(scene.state.parent, "memory.json")]
    return [path for path in files if path.parent.name != "copies"]  # without both, a step is done again


def of_the_model(scene: Scene) -> list[Path]:
    """The same in the place of each file of a model whose training is half done."""
    return plain_files(scene.model)


def of_the_results(scene: Scene) -> list[Path]:
    """The same in the place of each file of a finished run in data, exports, reports and logs."""
    return [
        path for room in ("data", "exports", "reports", "logs") for path in plain_files(scene.workspace / room / RUN)
    ]


def plain_files(folder: Path, pattern: str = "*") -> list[Path]:
    return [path for path in sorted(folder.rglob(pattern)) if path.is_file() and not path.is_symlink()]


KINDS = [
    Kind("no plain files in the state", "files", in_place_of(of_the_state), template="whole", seconds=SECONDS),
    Kind("no plain files in a model's folder", "files", in_place_of(of_the_model), seconds=SECONDS),
    Kind(
        "no plain files among results",
        "files",
        in_place_of(of_the_results),
        template="whole",
        seconds=SECONDS,
        small=False,
    ),
]
