"""Language models behind one contract."""

from rain.core.engine import Continuation, Engine, Stop, Usage
from rain.core.types import Tokens

__all__ = ["Continuation", "Engine", "Stop", "Tokens", "Usage"]
