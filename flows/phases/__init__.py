"""The phases, one file each: a function of the run, the list of its steps, and their work. No phase imports another."""
