"""The command line: what was asked for, one start of a run around the flow, `--status`, and starts at boot."""
