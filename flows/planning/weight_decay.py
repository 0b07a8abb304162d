"""How much weight decay a training needs against learning its text by heart: by how many passes over the text its
weights are to remember.

A step takes weight decay x learning rate of the weights, so they remember 1 / (weight decay x learning rate) steps
(Wang and Aitchison 2024, "How to set AdamW's weight decay as you scale model and dataset size", section 2).
"""

from __future__ import annotations

from nanogpt.config import Config
from nanogpt.measure.sizes import tokens_per_step

# From how far on a text is learned by heart, passes times parameters for each of its tokens, and how many passes the
# weights are to remember then. Below, weight decay costs. Measured in docs/recipe.md.
REMEMBERED_PASSES = ((5, 0.75), (100, 0.38))
MOST = 2.0


def needed(config: Config, parameters: int, tokens: float, train_tokens: int) -> float:
    """The weight decay, in two digits, for a training that reads `tokens` of a text of `train_tokens`; 0 where the text
    is not learned by heart."""
    how_far = tokens / train_tokens * parameters / train_tokens
    remembered = [passes for least, passes in REMEMBERED_PASSES if how_far >= least]
    if not remembered:
        return 0.0
    steps_of_a_pass = train_tokens / tokens_per_step(config)
    return min(MOST, float(f"{1 / (remembered[-1] * config.training.matrix_learning_rate * steps_of_a_pass):.2g}"))
