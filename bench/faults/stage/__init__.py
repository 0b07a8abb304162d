"""A run to inflict faults on, what is found then, and how it is judged."""
