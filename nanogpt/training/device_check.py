"""When an accelerator is compared with the CPU: at each start, and at each new shape of a pass.

A batch or a window that grows changes the shape, after which MPS's gradients were wrong (pytorch #177116).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from nanogpt.training.micro_batches import MicroBatches
from nanogpt.training.numerics import Numerics
from nanogpt.training.parity import Parity, require_parity
from nanogpt.training.record.recorder import Recorder
from nanogpt.training.retries import Retries
from nanogpt.training.state import TrainingState
from nanogpt.training.update.growth import StepData


@dataclass
class DeviceCheck:
    """Asks nanogpt.training.parity about the passes of this training."""

    state: TrainingState
    numerics: Numerics
    micro_batches: MicroBatches
    retries: Retries
    record: Recorder
    compared: tuple[int, int] | None = None  # the shape of a pass

    def check(self, data: StepData, loss_scale: float) -> None:
        """Raise DeviceError unless the device computes `data` as the CPU does.

        Where there is no memory for it, the micro-batch halves as in a step. Raises OutOfMemory.
        """
        if self.numerics.device == "cpu" or self.micro_batches.shape(data) == self.compared:
            return
        self.record.beat("comparing the device with the CPU")
        self.state.optimizer.forget_gradients()  # of the last step: the comparison makes a set of its own
        found = self.retries.complete(data, lambda: self._compare(data, loss_scale), uses_compiler=False)
        self.compared = self.micro_batches.shape(data)
        if found:
            message = (
                f"loss within {found.loss:.0e}, gradients within {found.gradient:.0e} of the CPU's, "
                f"on {found.tokens} tokens in {found.seconds:.1f} s"
            )
            self.record.event("parity", message, **asdict(found))

    def _compare(self, data: StepData, loss_scale: float) -> Parity | None:
        seen = next(self.micro_batches.of(data))
        return require_parity(self.state.model, seen.inputs, seen.targets, self.numerics.precision, loss_scale)
