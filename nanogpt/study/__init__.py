"""What a model has learned and how it computes: proofs of its parts, attention, predictions layer by layer."""
