"""Language models behind one contract."""

from rain.engines.base import Continuation, Engine, Stop, Tokens, Usage

__all__ = ["Continuation", "Engine", "Stop", "Tokens", "Usage"]
