"""Which models to train: speed measured here, budget and memory in; shapes, steps and predictions out."""
