"""What cannot be had on this machine: the message says why, in half a sentence that follows its name."""


class Unavailable(Exception):
    """Not on this machine, or not for this model; something else takes its place."""
