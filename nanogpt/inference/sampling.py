"""Choose the next token from the model's logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanogpt.faults import UserError

GREEDY_BELOW = 1e-6  # temperature: dividing logits by less overflows, and the likeliest token is all that is left
LARGEST_SEED = 2**63 - 1
NOT_A_TOKEN = -1


def check_options(temperature: float, top_k: int | None, top_p: float | None, seed: int | None = None) -> None:
    """Raises UserError naming the option that is out of range."""
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature: found {temperature}, should be 0 (always the likeliest token) or above")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k: found {top_k}, should be 1 or more tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p: found {top_p}, should be above 0 and at most 1")
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed: found {seed}, should be 0 or above and below 2**63")


def sample(
    logits: Tensor,
    generators: Sequence[torch.Generator],
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """One token (B,) int64 for each row of logits (B, vocab_size) float32, on their device.

    temperature divides the logits, 0 takes the likeliest token; top_k keeps the k likeliest; top_p then keeps the
    fewest whose probabilities reach p (nucleus sampling, Holtzman et al. 2020). A row draws from its own generator,
    one a row, so its tokens do not depend on the others. NOT_A_TOKEN stands for a row of NaN or infinity.
    """
    finite = logits.amax(-1).isfinite()  # (B,)
    if temperature < GREEDY_BELOW:
        chosen = logits.argmax(-1)
    else:
        probabilities = nucleus(kept_k(logits / temperature, top_k).softmax(-1), top_p)  # (B, vocab_size)
        # The largest p / e, with e exponentially distributed, is token i with probability p_i: what torch.multinomial
        # computes too, but that waits for the device to check its argument, and takes one generator for all rows.
        noise = torch.empty_like(probabilities)
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(1, generator=generator)
        chosen = (probabilities / noise).argmax(-1)
    return chosen.masked_fill(~finite, NOT_A_TOKEN)


def kept_k(logits: Tensor, top_k: int | None) -> Tensor:
    """Logits (B, vocab_size) with all but the `top_k` largest of a row at minus infinity; ties with the k-th stay."""
    if top_k is None or top_k >= logits.size(-1):
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], float("-inf"))


def nucleus(probabilities: Tensor, top_p: float | None) -> Tensor:
    """Probabilities (B, vocab_size) with zero outside the smallest set that reaches `top_p`; not normalised again."""
    if top_p is None or top_p >= 1:
        return probabilities
    ordered, tokens = probabilities.sort(descending=True, stable=True)
    unneeded = ordered.cumsum(-1) - ordered >= top_p  # those before it reach top_p already
    return probabilities.masked_fill(torch.empty_like(unneeded).scatter(-1, tokens, unneeded), 0.0)
