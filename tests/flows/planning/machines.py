"""Stand-ins for a worker that measures: machines of a certain speed and memory, which answer at once."""

from typing import Any

from nanogpt.config import Config
from nanogpt.measure.sizes import flops_per_token, parameters
from nanogpt.results.speed import CompiledSpeed, FastestMicroBatch, MicroBatchTry, Rehearsal, StepSpeed
from nanogpt.units import GIB


class Machine:
    """Answers as the worker would on a machine of `rate` FLOP/s, where micro-batches above `most` have no memory."""

    def __init__(self, rate: float = 1e15, most: int = 10**6, fastest: int | None = None):
        self.rate, self.most, self.fastest, self.peak = rate, most, fastest, GIB
        self.measured: list[tuple[str, int]] = []
        self.searched: list[tuple[str, float]] = []
        self.threads, self.compared = 2, list[str]()
        self.compiled: float | None = 1.1  # times a step's seconds in eager mode; None: there is no compiler

    def call(self, target: str, *, config: dict[str, Any], timeout: float, **arguments: Any) -> Any:
        return getattr(self, target.partition(":")[2])(Config.model_validate(config), **arguments)

    def said(self) -> str:
        return ""

    def close(self, kill: bool = False) -> None: ...

    def begin(self, config: Config) -> None:
        """What happens once in a measurement, in its first call."""
        self.measured.append((config.name, config.training.batch_size))
        if config.training.batch_size > self.most:
            raise MemoryError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 402653184 bytes")

    def choose_precision_and_threads(self, config: Config, device: str, seconds: float) -> StepSpeed:
        self.begin(config)
        self.compared.append(config.name)
        return StepSpeed(**self._figures(config, device))

    def rehearse(self, config: Config, device: str, folder: str, seconds: float) -> Rehearsal:
        if config.name not in self.compared:
            self.begin(config)
        settings = config.device
        assert settings.mixed_precision is True and settings.threads == self.threads  # what was chosen is rehearsed
        between = {"evaluation_seconds_per_token": 1e-9, "sample_seconds": 0.01, "save_seconds": 0.1}
        return Rehearsal(**self._figures(config, device), **between)

    def find_for(self, config: Config, folder: str, seconds: float) -> FastestMicroBatch:
        self.searched.append((config.name, seconds))
        speeds = {1: 1e12, 2: 2e12, 7: 9e12, self.fastest or config.training.batch_size: 5e12}  # 7 divides no step
        tried = [MicroBatchTry(size, "fits", tokens_per_second=speed) for size, speed in speeds.items()]
        return FastestMicroBatch(7, 9e12, GIB, [*tried, MicroBatchTry(16, "out of memory")], kept=False)

    def compare_compiled(self, config: Config, device: str, seconds: float) -> CompiledSpeed:
        eager = self._figures(config, device)["seconds_per_step"]
        if self.compiled is None:
            raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: No working C++ compiler found")
        return CompiledSpeed(eager, eager * self.compiled, 20.0, GIB)

    def _figures(self, config: Config, device: str) -> dict[str, Any]:
        rate = self.rate * (2 if config.training.batch_size == self.fastest else 1)
        tokens_per_second = rate / flops_per_token(config.model)
        return {
            "parameters": parameters(config.model).total, "tokens_per_second": tokens_per_second,
            "seconds_per_step": config.tokens_per_step / tokens_per_second, "flops_per_second": rate,
            "matmul_flops_per_second": 2 * rate, "share_of_matmul": 0.5, "share_of_peak": None,
            "peak_memory_bytes": self.peak, "mixed_precision": True, "precision": "bfloat16", "threads": self.threads,
            "device": device, "steps": 3,
        }  # fmt: skip


class Small(Machine):
    """A machine that runs out of memory with more than `tokens` in a pass, or, as `recomputes`, with kept blocks."""

    def __init__(self, tokens: int, recomputes: bool = True):
        super().__init__()
        self.tokens, self.recomputes = tokens, recomputes
        self.fitted: list[tuple[str, int, int]] = []

    def begin(self, config: Config) -> None:
        tokens = config.training.batch_size * config.context
        if tokens > self.tokens or (self.recomputes and not config.device.gradient_checkpointing):
            raise MemoryError
        self.fitted.append((config.name, config.training.batch_size, config.context))
        super().begin(config)


class Failing(Machine):
    """Raises each error in turn, of one model's measurement, before it answers."""

    def __init__(self, *errors: Exception, model: str = "micro"):
        super().__init__()
        self.errors, self.model = list(errors), model

    def begin(self, config: Config) -> None:
        super().begin(config)
        if config.name == self.model and self.errors:
            raise self.errors.pop(0)

    def find_for(self, config: Config, folder: str, seconds: float) -> FastestMicroBatch:
        if self.model == "the search" and self.errors:
            raise self.errors.pop(0)
        return super().find_for(config, folder, seconds)
