"""The machine around a run: its disk, its accelerator, its power and sleep. Waiting costs no budget."""
