"""Errors that a user can correct."""


class RainError(Exception):
    """A fault in the input, the settings or the surroundings; its message is one clear sentence for the user."""


class WorkerFault(RainError):
    """A fault of what answers, such as a server that is gone, and never of a prompt: another try may succeed."""
