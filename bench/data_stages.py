"""CPU seconds of each pass in one process: python -m bench.data_stages TEXTS OUT MIRROR, for bench.data."""
