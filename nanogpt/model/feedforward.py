"""The feed-forward half of a block: each position on its own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.config import ModelConfig
from nanogpt.model.saved import Saved
from nanogpt.model.unset import unset_linear


class FeedForward(nn.Module):
    """up, activation, down: (B, T, n_embd) -> (B, T, n_embd).

    Activations: "gelu" (tanh form, as GPT-2), "gelu_erf" (exact, as nanoGPT), "relu2" (squared ReLU, So et al. 2021)
    and "swiglu" (Shazeer 2020), whose gate and up matrices are the two halves of one, because one large product is
    faster than two.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.activation = config.activation
        self.hidden = config.ffn_width
        self.parts = 2 if config.activation == "swiglu" else 1
        self.up = unset_linear(config.n_embd, self.parts * config.ffn_width, bias=config.bias)
        self.down = unset_linear(config.ffn_width, config.n_embd, bias=config.bias)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.down(self.activate(self.up(x)))
        return F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden

    def activate(self, hidden: Tensor) -> Tensor:
        """(B, T, parts * ffn_dim) -> (B, T, ffn_dim)"""
        if self.activation == "swiglu":
            gated: Tensor = _SwiGLU.apply(hidden)  # type: ignore[no-untyped-call]
            return gated
        if self.activation == "relu2":
            return F.relu(hidden).square()
        return F.gelu(hidden, approximate="tanh" if self.activation == "gelu" else "none")


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up of the two halves of the last dimension.

    Written out so that both gradients land in one tensor: autograd would make two and concatenate them, which cost a
    tenth of a training step of a small model on a CPU.
    """

    @staticmethod
    def forward(ctx: Saved, hidden: Tensor) -> Tensor:
        gate, up = hidden.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(hidden, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Saved, gradient: Tensor) -> Tensor:
        hidden, activated = ctx.saved_tensors
        gate, up = hidden.chunk(2, dim=-1)
        grad_hidden = torch.empty_like(hidden)
        grad_gate, grad_up = grad_hidden.chunk(2, dim=-1)
        torch.mul(gradient, activated, out=grad_up)
        grad_gate.copy_(torch.ops.aten.silu_backward(gradient * up, gate))
        return grad_hidden
