"""What a training step does between its matrix products on a CPU: compiled C, each operation one pass over the data."""
