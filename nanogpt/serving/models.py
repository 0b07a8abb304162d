"""The models that a server offers: found on disk, loaded when one is asked for, the least recently used unloaded."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from nanogpt.faults import nearest
from nanogpt.inference.engine import Engine
from nanogpt.serving.found_models import FoundModel, find_models, version_of
from nanogpt.serving.metrics import Metrics
from nanogpt.serving.refusals import Refusal
from nanogpt.serving.settings import Settings
from nanogpt.serving.worker import Worker

FRESH = 2.0  # seconds that a listing is believed: a training may write new checkpoints meanwhile

OpenEngine = Callable[[FoundModel, Settings, Callable[[str], None]], Engine]


@dataclass(frozen=True)
class Offered:
    """A model on disk, and what computes it where it is loaded."""

    found: FoundModel
    loaded: bool
    backend: str | None


@dataclass
class Loaded:
    """What writes for a model, and the version of the weights that it has read."""

    worker: Worker
    version: tuple[int, int, int]


def open_engine(found: FoundModel, settings: Settings, notify: Callable[[str], None]) -> Engine:
    """The engine of a model. Raises UserError and CorruptFileError. `notify` gets each backend that was passed over."""
    return Engine.from_folder(found.path, settings.device, settings.backend, notify, settings.precision)


class Models:
    """All of this belongs to the event loop. `notify` gets what the person at the terminal should know."""

    def __init__(self, settings: Settings, metrics: Metrics, notify: Callable[[str], None], opening: OpenEngine):
        self._settings, self._metrics, self._notify, self._opening = settings, metrics, notify, opening
        self._found = {model.id: model for model in find_models(settings.paths)}
        self._read_at = time.monotonic()
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()  # the least recently used first
        self.first_failure: BaseException | None = None  # why the first model that was opened could not be

    @property
    def names(self) -> list[str]:
        return list(self._found)

    @property
    def loaded(self) -> int:
        return len(self._loaded)

    def offered(self) -> list[Offered]:
        """What is on disk now."""
        self._read_again()
        return [self._offered(model) for model in self._found.values()]

    def find(self, name: str | None) -> FoundModel:
        """The model of that id, the first one for None. Raises Refusal 404 when it is not there (any more)."""
        if name not in self._found:
            self._read_again()
        if name is None and self._found:
            name = next(iter(self._found))
        found = self._found.get(name) if name is not None else None
        if found is None:
            raise Refusal(404, f"model: there is no {name!r} here{nearest(name or '', self._found)}; "
                          f"GET /v1/models lists what there is", "model_not_found", "model")  # fmt: skip
        if version_of(found.path) is None:
            self._read_at = 0.0
            loaded = self._loaded.get(found.id)
            if loaded is not None and loaded.worker.idle:  # what is being written is finished from memory
                self._unload(found.id)
            raise Refusal(404, f"model: {found.id} is gone, its files were removed", "model_not_found", "model")
        return found

    def offer(self, name: str) -> Offered:
        """What is known of the model of that id. Raises Refusal 404."""
        return self._offered(self.find(name))

    def opened(self, found: FoundModel) -> Loaded:
        """What writes for `found`, loaded if it is not yet. Raises Refusal 429 when all places are busy."""
        loaded = self._loaded.get(found.id)
        version = version_of(found.path)
        if loaded is not None and (loaded.worker.state in ("failed", "stopped") or self._is_old(loaded, version)):
            self._unload(found.id)
            loaded = None
        if loaded is None:
            self._make_place()
            loaded = self._loaded[found.id] = Loaded(self._load(found), version or found.version)
            self._metrics.loaded.set(len(self._loaded))
        self._loaded.move_to_end(found.id)
        return loaded

    def engine(self, name: str | None) -> Engine | None:
        """The engine of a model that is loaded and ready, or None. It belongs to the model's thread: only read it."""
        loaded = self._loaded.get(self.find(name).id)
        return loaded.worker.engine if loaded is not None else None

    async def close(self, seconds: float) -> None:
        """Unload all; at most so long is waited for their threads."""
        workers = [loaded.worker for loaded in self._loaded.values()]
        for name in list(self._loaded):
            self._unload(name)
        until = time.monotonic() + seconds
        for worker in workers:
            await asyncio.to_thread(worker.join, max(0.0, until - time.monotonic()))

    def _load(self, found: FoundModel) -> Worker:
        limits = self._settings.limits
        return Worker(
            found.id,
            lambda: self._opening(found, self._settings, self._notify),
            limits.batch,
            limits.queue,
            self._metrics,
            self._report,
        )

    def _report(self, worker: Worker) -> None:
        if worker.state == "ready" and worker.engine is not None:
            self._notify(f"{worker.model} is loaded: {worker.engine.decoder.description}")
        elif worker.state == "failed":
            self.first_failure = self.first_failure or worker.error
            self._notify(f"{worker.model} could not be loaded or failed: {worker.error}")

    @staticmethod
    def _is_old(loaded: Loaded, version: tuple[int, int, int] | None) -> bool:
        """Whether the weights were written anew since they were read; texts that are being written are finished."""
        return loaded.version != version and loaded.worker.idle

    def _make_place(self) -> None:
        while len(self._loaded) >= self._settings.limits.loaded:
            idle = next((name for name, loaded in self._loaded.items() if loaded.worker.idle), None)
            if idle is None:
                raise Refusal(429, f"all {len(self._loaded)} models in memory are busy; try again later", "models_busy",
                              retry_after=2)  # fmt: skip
            self._notify(f"{idle} is unloaded: the least recently used")
            self._unload(idle)

    def _unload(self, name: str) -> None:
        loaded = self._loaded.pop(name, None)
        if loaded is not None:
            loaded.worker.stop()
            self._metrics.loaded.set(len(self._loaded))

    def _read_again(self) -> None:
        if time.monotonic() - self._read_at < FRESH:
            return
        self._found = {model.id: model for model in find_models(self._settings.paths, missing_ok=True)}
        self._read_at = time.monotonic()

    def _offered(self, model: FoundModel) -> Offered:
        loaded = self._loaded.get(model.id)
        engine = loaded.worker.engine if loaded is not None else None
        return Offered(model, loaded is not None, engine.decoder.description if engine is not None else None)
