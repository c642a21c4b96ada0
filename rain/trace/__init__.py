"""Recorded searches: ``read`` a file, ``Tree`` rebuilds the search at any event."""

from rain.trace.read import Trace, read
from rain.trace.tree import Tree

__all__ = ["Trace", "Tree", "read"]
