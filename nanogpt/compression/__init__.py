"""Smaller and faster models from a trained one: quantised, pruned, distilled, each with its size, speed and loss."""
