"""How gradients become the next weights: schedule, optimizer, averaging, and steps that look wrong."""
