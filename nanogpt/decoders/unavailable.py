"""A backend that cannot decode here: the message says why, in half a sentence that follows the backend's name."""


class Unavailable(Exception):
    """Not on this machine, or not for this model; another backend takes its place."""
