"""The gradients of parameters."""

from torch import Tensor, nn


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """The gradient of a parameter that had one in the last backward pass. Raises RuntimeError for another."""
    if parameter.grad is None:
        raise RuntimeError(f"a parameter of shape {tuple(parameter.shape)} has no gradient")
    return parameter.grad
