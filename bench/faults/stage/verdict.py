"""What every survivor must show, judged alike for all kinds of fault, from what lies on the disk."""

from __future__ import annotations

import math
from pathlib import Path

from bench.faults.stage.finding import NotSurvived
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import MODEL, Row
from flows.ledger import outputs
from flows.ledger.markers import FINISHED, MarkerFiles
from nanogpt import durable

ROUNDING = 1e-3  # relative; other micro-batches were measured to differ by 2e-7 a step, and steps add up


def judge(scene: Scene, exact: bool | None) -> str:
    """How near the result is to that of the uninterrupted run, in words. Raises NotSurvived."""
    if not scene.results or scene.results[-1].code != 0:
        raise NotSurvived("no start of the command ended well")
    _each_step_once(scene)
    _every_step_finished(scene)
    _files_are_whole(scene)
    _others_are_intact(scene)
    scene.wait_until(lambda: not scene.left_over(), "the end of processes that outlive their command")
    if exact is None:
        return ""
    if not exact:
        return within_rounding(scene)
    if scene.final_sha256() != scene.reference.final_sha256:
        raise NotSurvived("the final weights are not those of the uninterrupted run")
    if scene.best_sha256() != scene.reference.best_sha256:
        raise NotSurvived("the best weights are not those of the uninterrupted run")
    if (difference := loss_difference(scene)) > 0:
        raise NotSurvived(f"the same weights, but another loss curve, by {difference:.1g}")
    return "same bytes"


def within_rounding(scene: Scene) -> str:
    """The largest relative difference of a loss. Raises NotSurvived when rounding does not explain it."""
    difference = loss_difference(scene)
    if difference > ROUNDING:
        raise NotSurvived(f"the loss curve differs by {difference:.1g}; rounding explains {ROUNDING:g}")
    return f"loss curve within {difference:.1e}"


def loss_difference(scene: Scene) -> float:
    """The largest relative difference of a training or validation loss from the uninterrupted run's."""
    mine, theirs = (losses(rows) for rows in (scene.metrics(), scene.reference.metrics))
    if mine.keys() != theirs.keys():
        raise NotSurvived(f"rows of metrics that only one of the two runs has: {sorted(mine.keys() ^ theirs.keys())}")
    return max(apart(mine[key], theirs[key]) for key in theirs)


def apart(mine: float, theirs: float) -> float:
    """The relative difference of two losses: infinite where one of them alone is NaN, which max() would pass over."""
    if math.isnan(mine) or math.isnan(theirs):
        return 0.0 if math.isnan(mine) and math.isnan(theirs) else math.inf
    return abs(mine - theirs) / abs(theirs)


def losses(rows: list[Row]) -> dict[tuple[str, int], float]:
    """{(kind, step): loss} of the rows of metrics; NaN where a loss was none."""
    name = {"train": "loss", "eval": "val_loss"}
    losses = {(row["kind"], row["step"]): row[name[row["kind"]]] for row in rows if row["kind"] in name}
    return {key: math.nan if loss is None else loss for key, loss in losses.items()}


def _every_step_finished(scene: Scene) -> None:
    """With all that it promises, byte for byte; but for the training of a model that the plan leaves out."""
    left_out = {f"training.{row['name']}" for row in durable.read_json(scene.state / "plan.json")["left_out"]}
    for path in sorted(scene.markers.glob("*.json")):
        if path.stem in left_out:
            continue
        marker, problem = MarkerFiles(scene.markers).read(path.stem)
        if marker is None or problem or marker.state != FINISHED:
            raise NotSurvived(f"{path.stem} is {problem or (marker and marker.state)}")
        if damage := outputs.damage(marker.outputs, scene.workspace):
            raise NotSurvived(f"{path.stem} is called finished, and {damage}")


def _each_step_once(scene: Scene) -> None:
    done = [(row["kind"], row["step"]) for row in scene.metrics()]
    wanted = [(row["kind"], row["step"]) for row in scene.reference.metrics]
    if sorted(done) != sorted(wanted):
        twice = sorted({row for row in done if done.count(row) > 1})
        raise NotSurvived(f"metrics.jsonl: twice {twice}, missing {sorted(set(wanted) - set(done))}")


def _files_are_whole(scene: Scene) -> None:
    """Whatever is called a checkpoint is one, byte for byte."""
    folders = [scene.model / "best", scene.model / "final", *sorted(scene.checkpoints.glob("step-*"))]
    for folder in folders:
        if folder.suffix != ".bad":
            check_manifest(folder)


def check_manifest(folder: Path) -> None:
    """Raises NotSurvived when a file of a checkpoint is not what its manifest says."""
    try:
        files = durable.read_json(folder / "manifest.json")["files"]
        wrong = [name for name, file in files.items() if durable.sha256_file(folder / name) != file["sha256"]]
    except (OSError, ValueError, KeyError) as error:
        raise NotSurvived(f"{folder} passes for a checkpoint and is not one: {error}") from error
    if wrong:
        raise NotSurvived(f"{folder} passes for a checkpoint, and {', '.join(wrong)} in it is damaged")


def _others_are_intact(scene: Scene) -> None:
    if scene.template == "fresh":
        return
    for folder in ("best", "final"):
        check_manifest(scene.model.parents[1] / "neighbour" / MODEL / folder)
