"""What the library's longer works give back: records that cross from one process to another, and are kept as JSON.

Nothing here imports torch: whoever reads a result, such as the orchestrator of a run, needs none of what made it.
"""
