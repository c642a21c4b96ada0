"""Errors that a user can mend."""


class RainError(Exception):
    """A fault in the input, the settings or the surroundings; its message is one clear sentence for the user."""
