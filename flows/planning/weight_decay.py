"""How much weight decay a training needs against learning its text by heart: by how many passes over the text its
weights are to remember.

A step takes weight decay x learning rate of the weights, so they remember 1 / (weight decay x learning rate) steps
(Wang and Aitchison 2024, "How to set AdamW's weight decay as you scale model and dataset size", section 2).
"""

from __future__ import annotations

from nanogpt.config import Config

BY_HEART = 5  # passes times parameters for each token of the text, from which on weight decay pays
# How many passes the weights are to remember: 0.75 is best of 6 to 9 passes, 0.38 of 15 and 18 (docs/recipe.md).
MOST_REMEMBERED, LEAST_REMEMBERED, REMEMBERED_TIMES_PASSES = 0.75, 0.38, 6.0
MOST = 2.0


def needed(config: Config, parameters: int, tokens: float, train_tokens: int) -> float:
    """The weight decay, in two digits, for a training that reads `tokens` of a text of `train_tokens`; 0 where the text
    is not learned by heart."""
    passes = tokens / train_tokens
    if passes * parameters / train_tokens < BY_HEART:
        return 0.0
    remembered = min(MOST_REMEMBERED, max(LEAST_REMEMBERED, REMEMBERED_TIMES_PASSES / passes))
    steps = remembered * train_tokens / config.tokens_per_step
    return min(MOST, float(f"{1 / (config.training.matrix_learning_rate * steps):.2g}"))
