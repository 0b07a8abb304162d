"""Curves and samples for TensorBoard (always) and for Weights & Biases (`tracking: wandb`), next to metrics.jsonl.

metrics.jsonl and samples.jsonl are the truth. TensorBoard's file is a view of them: each session writes it anew from
the rows that are kept, so that after any interruption the curves are those of an uninterrupted training. Whatever goes
wrong here is an event, and the training continues without it.
"""

from __future__ import annotations

import html
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, cast

from nanogpt import durable
from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.training.record.metrics import Row, read_rows
from nanogpt.units import GIB

PROJECT = "nanogpt-autopilot"  # of W&B, unless WANDB_PROJECT says otherwise
TAGS = {  # other figures go by their own names
    "loss": "loss/train",
    "train_loss": "loss/train_recent",
    "val_loss": "loss/val",
    "average_val_loss": "loss/val_average",
    "memory_bytes": "memory_gib",
}
NOT_A_CURVE = {"kind", "step", "seconds", "best"}

Mode = Literal["online", "offline", "disabled", "shared"]  # of W&B, which refuses another


def require(config: Config) -> None:
    """Raise UserError when `config` asks for a tracker that is not installed."""
    if config.tracking == "wandb" and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "tracking: wandb is not installed; `pip install wandb`, or set tracking to none (TensorBoard is always on)"
        )


class View(Protocol):
    """What shows a training. Any method may raise."""

    def row(self, row: Row) -> None: ...

    def sample(self, row: Row) -> None: ...

    def redraw(self) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """Everything that shows the training in `folder`, whose metrics.jsonl and samples.jsonl end where it continues.

    A view that fails is reported by `event(name, message)`, and then left alone.
    """

    def __init__(self, folder: Path, config: Config, event: Callable[[str, str], None]):
        self._event = event
        self._views: dict[str, View] = {}
        self._open("tensorboard", lambda: TensorBoard(folder, config))
        if config.tracking == "wandb":
            self._open("wandb", lambda: WeightsAndBiases(folder, config))

    def row(self, row: Row) -> None:
        """Show a row of metrics.jsonl."""
        self._show(lambda view: view.row(row))

    def sample(self, row: Row) -> None:
        """Show a row of samples.jsonl."""
        self._show(lambda view: view.sample(row))

    def redraw(self) -> None:
        """Show what the two files say now: the training went back, and they dropped what it will write again."""
        self._show(lambda view: view.redraw())

    def close(self) -> None:
        """Let go of all files and processes."""
        self._show(lambda view: view.close())
        self._views.clear()

    def _open(self, name: str, view: Callable[[], View]) -> None:
        try:
            self._views[name] = view()
        except Exception as error:
            self._give_up(name, error)

    def _show(self, what: Callable[[View], None]) -> None:
        for name, view in list(self._views.items()):
            try:
                what(view)
            except Exception as error:
                del self._views[name]
                self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        self._event("not tracked", f"{name}: {type(error).__name__}: {error}"[:500])


def curves(row: Row) -> Iterator[tuple[str, float]]:
    """(tag, value) of each figure in a row of metrics.jsonl; perplexity is e to the validation loss."""
    for key, value in row.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key not in NOT_A_CURVE and is_number and math.isfinite(value):
            yield TAGS.get(key, key), value / GIB if key == "memory_bytes" else value
    for source, loss in row.get("loss_by_source", {}).items():
        yield f"loss/train/{source}", loss
    if "perplexity" not in row and isinstance(row.get("val_loss"), float):
        yield "perplexity", math.exp(min(row["val_loss"], 700.0))


class TensorBoard:
    """An event file in <folder>/tensorboard, written at once and without the thread of torch's SummaryWriter: that one
    prints a traceback when the disk is full, and loads tensorflow where it is installed. Here loading takes 0.06 s and
    5 MB of memory, a row 0.03 ms, the rows of 30,000 steps 0.1 s.
    """

    def __init__(self, folder: Path, config: Config):
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event_pb2, self._summary_pb2, self._records_in = event_pb2, summary_pb2, RecordWriter
        self._tensor_pb2, self._shape_pb2 = tensor_pb2, tensor_shape_pb2
        self._folder, self._settings = folder, flat(config)
        self._file: BinaryIO | None = None
        self.redraw()

    def redraw(self) -> None:
        """A new file instead of those before it. TensorBoard's own way back, SessionLog.START, forgets curves only,
        and is for one that is open: it has to forget what it has read."""
        self.close()
        place = self._folder / "tensorboard"
        if os.path.lexists(place) and not place.is_dir():
            durable.set_aside(place)
        place.mkdir(exist_ok=True)
        for older in place.glob("events.out.tfevents.*"):
            durable.remove(older)
        # a TensorBoard that is open meanwhile reads the files of a folder in the order of their names
        self._file = open(place / f"events.out.tfevents.{time.time_ns()}", "wb", buffering=0)  # noqa: SIM115
        self._records = self._records_in(self._file)
        self._write(file_version="brain.Event:2")
        self._write(session_log=self._event_pb2.SessionLog(status=self._event_pb2.SessionLog.START))
        self._hyper_parameters(self._settings)
        rows = list(read_rows(self._folder / "metrics.jsonl"))
        self._clock = time.time() - max((row.get("seconds", 0.0) for row in rows), default=0.0)
        for row in rows:
            self.row(row)
        for row in read_rows(self._folder / "samples.jsonl"):
            self.sample(row)

    def row(self, row: Row) -> None:
        value = self._summary_pb2.Summary.Value
        summary = self._summary_pb2.Summary(value=[value(tag=tag, simple_value=number) for tag, number in curves(row)])
        self._write(row["step"], row.get("seconds"), summary=summary)

    def sample(self, row: Row) -> None:
        self._text(f"sample/temperature {row['temperature']}", f"```\n{row['text']}\n```", row["step"])

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _hyper_parameters(self, settings: dict[str, Any]) -> None:
        """The page HPARAMS, on which trainings are compared."""
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        start = plugin_data_pb2.SessionStartInfo()
        for key, value in settings.items():
            if isinstance(value, bool):
                start.hparams[key].bool_value = value
            elif isinstance(value, int | float):
                start.hparams[key].number_value = value
            elif value is not None:
                start.hparams[key].string_value = str(value)
        names = [api_pb2.HParamInfo(name=key) for key in start.hparams]
        judged_by = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in ("loss/val", "bits_per_byte")]
        experiment = api_pb2.Experiment(hparam_infos=names, metric_infos=judged_by)
        for tag, content in (
            (metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment)),
            (metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start)),
        ):
            content.version = metadata.PLUGIN_DATA_VERSION
            self._plugin(tag, metadata.PLUGIN_NAME, content.SerializeToString(), 0)

    def _text(self, tag: str, text: str, step: int) -> None:
        shape = self._shape_pb2.TensorShapeProto(dim=[self._shape_pb2.TensorShapeProto.Dim(size=1)])
        content = [text.encode("utf-8", "replace")]
        tensor = self._tensor_pb2.TensorProto(dtype="DT_STRING", string_val=content, tensor_shape=shape)
        self._plugin(tag, "text", b"", step, tensor=tensor)

    def _plugin(self, tag: str, plugin: str, content: bytes, step: int, **value: Any) -> None:
        data = self._summary_pb2.SummaryMetadata.PluginData(plugin_name=plugin, content=content)
        metadata = self._summary_pb2.SummaryMetadata(plugin_data=data)
        shown = self._summary_pb2.Summary.Value(tag=tag, metadata=metadata, **value)
        self._write(step, summary=self._summary_pb2.Summary(value=[shown]))

    def _write(self, step: int = 0, seconds: float | None = None, **what: Any) -> None:
        """`seconds` of training become the time of the event: a pause between two sessions leaves no gap."""
        at = time.time() if seconds is None else self._clock + seconds
        self._records.write(self._event_pb2.Event(wall_time=at, step=step, **what).SerializeToString())


class WeightsAndBiases:
    """A run of Weights & Biases, offline unless there is a key; `wandb sync <folder>/wandb/...` sends it later.

    W&B cannot take back what it was given. wandb.json keeps the run's id, by which a resumed training continues in it,
    and the last step sent: steps up to there, which a resumed training repeats to the same values, are left out. Where
    steps are taken back for good, the run ends with the tag "taken back", and a new one gets all that is kept.
    (W&B's own rewind, resume_from, is in beta and needs a server.)
    """

    def __init__(self, folder: Path, config: Config):
        import wandb

        self._wandb, self._folder, self._config = wandb, folder, config
        self._notes = folder / "wandb.json"
        notes = read_notes(self._notes) if any(True for _ in read_rows(folder / "metrics.jsonl")) else None
        if notes is None:
            self._begin()
        else:
            self._open(notes["id"], sent=notes["step"])

    def row(self, row: Row) -> None:
        self._log(row["step"], dict(curves(row)))

    def sample(self, row: Row) -> None:
        text = self._wandb.Html(f"<pre>{html.escape(row['text'])}</pre>")
        self._log(row["step"], {f"sample/temperature {row['temperature']}": text})

    def redraw(self) -> None:
        """A new run, where this one was given steps that are kept no longer."""
        last_kept = max((row["step"] for row in read_rows(self._folder / "metrics.jsonl")), default=0)
        if self._sent <= last_kept:
            return
        self._run.tags = (*(self._run.tags or ()), "taken back")
        self._run.notes = f"Steps {last_kept + 1} to {self._sent} were taken back; a later run has the whole training."
        self._run.finish()
        self._begin()

    def close(self) -> None:
        self._run.finish()

    def _begin(self) -> None:
        """A new run with all rows there are, in the order of their steps: W&B takes no other."""
        self._open(os.urandom(4).hex(), sent=-1)
        shown = [(row, self.row) for row in read_rows(self._folder / "metrics.jsonl")]
        shown += [(row, self.sample) for row in read_rows(self._folder / "samples.jsonl")]
        for row, show in sorted(shown, key=lambda pair: pair[0]["step"]):
            show(row)

    def _open(self, identity: str, sent: int) -> None:
        self._id, self._sent, self._sent_before = identity, sent, sent
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self._config.name,
            id=identity,
            resume="allow",
            dir=self._folder,
            mode=cast(Mode, mode),
            config=flat(self._config),
            settings=self._wandb.Settings(console="off", silent=True, save_code=False),
        )
        self._note()

    def _log(self, step: int, figures: dict[str, Any]) -> None:
        """A step's figures may come in several rows: training, evaluation, samples."""
        if step <= self._sent_before or step < self._sent:
            return
        self._run.log(figures, step=step)
        if step > self._sent:
            self._sent = step
            self._note()

    def _note(self) -> None:
        durable.unblock(self._notes)
        self._notes.write_text(f'{{"id": "{self._id}", "step": {self._sent}}}\n')


def read_notes(path: Path) -> dict[str, Any] | None:
    """wandb.json; None where it is missing or torn: it is written at each row, and not synced."""
    try:
        notes = durable.read_json(path)
        return notes if isinstance(notes["id"], str) and isinstance(notes["step"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def has_key() -> bool:
    """Whether W&B would know who is asking: by WANDB_API_KEY or, after `wandb login`, by ~/.netrc."""
    from requests.utils import get_netrc_auth

    home = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth(home))


def flat(config: Config) -> dict[str, Any]:
    """Every setting by its dotted key."""
    settings: dict[str, Any] = {}
    for section, value in config.model_dump().items():
        if isinstance(value, dict):
            settings |= {f"{section}.{key}": part for key, part in value.items()}
        else:
            settings[section] = value
    return settings
