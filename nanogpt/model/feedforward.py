"""The feed-forward half of a block: each position on its own."""

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """up, activation, down: (B, T, n_embd) -> (B, T, n_embd).

    Activations: "gelu" (tanh form, as GPT-2), "relu2" (squared ReLU, So et al. 2021) and "swiglu" (Shazeer 2020),
    whose gate and up matrices are the two halves of one, because one large product is faster than two.
    """

    def __init__(self, config):
        super().__init__()
        self.activation = config.activation
        self.hidden = config.ffn_width
        self.parts = 2 if config.activation == "swiglu" else 1
        self.up = nn.utils.skip_init(
            nn.Linear, config.n_embd, self.parts * config.ffn_width, bias=config.bias
        )
        self.down = nn.utils.skip_init(nn.Linear, config.ffn_width, config.n_embd, bias=config.bias)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.down(self.activate(self.up(x)))
        return F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden

    def activate(self, hidden: Tensor) -> Tensor:
        """(B, T, parts * ffn_dim) -> (B, T, ffn_dim)"""
        if self.activation == "swiglu":
            gate, up = hidden.split(self.hidden, dim=-1)
            return F.silu(gate) * up
        if self.activation == "relu2":
            return F.relu(hidden).square()
        return F.gelu(hidden, approximate="tanh")
