"""Proofs of the model's parts, each with its figure and its limit."""
