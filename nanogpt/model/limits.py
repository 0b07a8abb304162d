"""How much is computed at once: what the model keeps to, and what the prediction of memory counts with. No torch."""

LOGITS_AT_ONCE = 32 * 2**20  # elements; 128 MiB in float32. Beyond it the loss is computed in chunks.
TOKENS_AT_ONCE = 8192  # in a forward pass of an evaluation
# Positions; up to it attention in bfloat16 on a CPU is nanogpt.model.short_attention. 31 instead of 43 ms (4 windows,
# 8 heads); at 1024 it is 45 instead of 40.
SHORT_WINDOW = 512
