"""What was done, on what, with what result: steps, their facts and markers. It decides: keep or run."""
