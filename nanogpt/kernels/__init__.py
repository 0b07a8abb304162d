"""What a training step computes on a CPU in compiled C: blocks, norms, loss, each operation one pass over the data."""
