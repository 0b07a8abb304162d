"""A model that trains in seconds, and a text that every Python has: for tests of whole commands."""

SMALL = """\
model: {preset: modern, n_layer: 2, n_head: 2, n_embd: 32, block_size: 32, dropout: 0.1}
training: {batch_size: 8, gradient_accumulation: 2, max_iters: 300, warmup_iters: 10, eval_interval: 60,
           sample_interval: 150, checkpoint_interval: 25, log_interval: 5, learning_rate: 0.01}
data: {tokenizer: char}
device: {type: cpu, mixed_precision: false, threads: 1}
"""


def english() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
