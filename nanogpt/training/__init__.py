"""The trainer: from a configuration and token ids to weights, through any interruption to the same bytes."""
