"""The campaign that proves that nothing stops a run: faults of every kind, inflicted on the real command."""
