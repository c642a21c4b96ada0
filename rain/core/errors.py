"""Errors that a user can correct."""

from __future__ import annotations


class RainError(Exception):
    """A fault in the input, the settings or the surroundings; its message is one clear sentence for the user."""


class PromptTooLong(RainError):
    """A prompt leaves no room for an answer.

    Attributes:
        tokens: of the prompt (None: refused before they were counted).
        context: what the model takes (tokens).
    """

    def __init__(self, message: str, tokens: int | None, context: int) -> None:
        super().__init__(message)
        self.tokens, self.context = tokens, context


class UnclearFault(RainError):
    """A fault of a prompt or of what answers it, such as a reply that makes no sense: another try shows which."""


class WorkerFault(RainError):
    """A fault of what answers, such as a server that is gone, and never of a prompt: another try may succeed."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device's memory ran out, which some of CUDA's libraries report as an error of their own."""
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in text or "ALLOC_FAILED" in text


def is_broken_device(error: Exception) -> bool:
    """Tell whether no later pass can succeed: after an error of the GPU's own, every call fails until a new start."""
    if is_out_of_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def check_device(error: Exception) -> None:
    """Raise a WorkerFault if an error is one of the device, broken or out of memory, and not of what it was to do."""
    if is_broken_device(error) or is_out_of_memory(error):
        raise WorkerFault(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
