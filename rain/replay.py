"""Replays golden search traces and compares every commit, simulation and node (``rain replay``)."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.core.problem import SearchInputs
from rain.core.search import Commit, Search
from rain.core.stop import Stop
from rain.core.tree import Node
from rain.core.types import Tokens, Vector
from rain.engines.scripted import NotRecorded, ScriptedSession

TOLERANCE = 1e-5
FLOATS = ("n", "q", "prior")
FIELDS = {"config": dict, "prompt": list, "calls": dict, "moves": list, "output": list, "simulations": int}


class RecordedScorer:
    """Scores and embeddings of a trace."""

    def __init__(self, trace: Mapping[str, Any]) -> None:
        calls = trace["calls"]
        start = len(trace["prompt"])
        self._scores = {tuple(call["prefix"] + call["rollout"])[start:]: call["value"] for call in calls["evaluate"]}
        self._vectors = {tuple(call["tokens"]): np.array(call["vector"]) for call in calls["embed"]}

    async def score(self, response: Tokens) -> float:
        """Return the recorded score of a response."""
        if response not in self._scores:
            raise NotRecorded(f"the recording has no score of {response}")
        return float(self._scores[response])

    def commit(self, response: Tokens) -> None:
        """Nothing is cached here."""

    async def encode(self, spans: Sequence[Tokens]) -> list[Vector]:
        """Return the recorded embeddings."""
        missing = [span for span in spans if span not in self._vectors]
        if missing:
            raise NotRecorded(f"the recording has no embedding of {missing[0]}")
        return [self._vectors[span] for span in spans]


@dataclass(frozen=True)
class RecordedPolicy:
    """The recorded model ends at its end-of-sequence id; every rollout was recorded, empty ones too."""

    eos: int
    rollout_stop: Stop = Stop()

    def finish(self, response: Tokens) -> str | None:
        """End at the end-of-sequence id."""
        return "eos" if self.eos in response else None

    def complete(self, response: Tokens) -> bool:
        """Ask for every rollout."""
        return False

    def rollout_tokens(self, remaining: int) -> int:
        """Rollouts are as long as recorded."""
        return remaining


@dataclass
class Comparison:
    """What a replay compared; ``difference`` is the largest one of a float, ``fault`` the first mismatch."""

    commits: int = 0
    simulations: int = 0
    nodes: int = 0
    expansions: int = 0
    recorded_expansions: int = 0
    difference: float = 0.0
    fault: str = ""


def nodes_below(root: Node, path: Tokens = ()) -> Iterator[tuple[Tokens, Node]]:
    """Yield (path, node) for all nodes below the root with n > 0, depth first, in child order."""
    for child in root.children:
        below = path + child.tokens
        if child.n > 0:
            yield below, child
        yield from nodes_below(child, below)


def describe(node: Node) -> dict[str, Any]:
    """Return a node's statistics under the names of the trace."""
    return {"n": node.n, "visits": node.visits, "q": node.value, "prior": node.prior}


def compare_nodes(
    kind: str, recorded: Mapping[Tokens, Mapping[str, Any]], built: Mapping[Tokens, Node], result: Comparison
) -> None:
    """Compare two sets of nodes by path; visits exactly, floats to ``TOLERANCE``."""
    if list(recorded) != list(built) and (kind == "children" or set(recorded) != set(built)):
        result.fault = f"commit {result.commits}: the {kind} differ: {sorted(set(recorded) ^ set(built))[:3]}"
        return
    for path, expected in recorded.items():
        actual = describe(built[path])
        known = [name for name in FLOATS if name != "prior" or not math.isnan(actual["prior"])]
        gap = max(abs(actual[name] - expected[name]) for name in known)
        result.difference = max(result.difference, gap)
        result.nodes += kind == "tree"
        if gap > TOLERANCE or actual["visits"] != expected["visits"]:
            result.fault = f"commit {result.commits}: {kind} {list(path)}: expected {dict(expected)}, got {actual}"
            return


def compare_commit(move: Mapping[str, Any], commit: Commit, result: Comparison) -> None:
    """Compare one committed token set and the tree it was chosen from."""
    result.commits += 1
    result.simulations += commit.simulations
    actual = (list(commit.tokens), commit.simulations, commit.root.visits)
    expected = (move["committed"], move["simulations"], move["root_visits"])
    if actual != expected:
        result.fault = f"commit {result.commits}: expected (tokens, simulations, root visits) {expected}, got {actual}"
        return
    children = {tuple(child["tokens"]): child for child in move["children"]}
    compare_nodes("children", children, {child.tokens: child for child in commit.root.children}, result)
    if not result.fault:
        tree = {tuple(node["path"]): node for node in move["tree"]}
        compare_nodes("tree", tree, dict(nodes_below(commit.root)), result)


def recorded_config(trace: Mapping[str, Any]) -> RainConfig:
    """Return the constants of the recorded search.

    ``max_draws`` keeps its default 9, since duplicates were drawn anew before the candidates were recorded.
    """
    settings = trace["config"]
    return RainConfig(
        max_simulations=settings["maxT"],
        min_visits=settings["minT"],
        value_threshold=settings["Vt"],
        maxlen=settings["maxlen"],
        candidates=settings["q"],
        exploration=settings["c"],
        similarity_weight=settings["gamma"],
        similarity_threshold=settings["similarity_threshold"],
    )


async def replay(trace: Mapping[str, Any], *, eager: bool = False) -> Comparison:
    """Search again with the recorded answers of the published code and compare; stops at the first difference.

    Priors that are not known yet, of token sets whose siblings no simulation needed, are compared if ``eager`` only.
    """
    scorer, session = RecordedScorer(trace), ScriptedSession(trace["calls"])
    inputs = SearchInputs(tuple(trace["prompt"]), "replay", scorer, scorer, RecordedPolicy(trace["config"]["eos"]))
    search = Search(inputs, session, recorded_config(trace), eager=eager)
    moves = [move for move in trace["moves"] if move["committed"] is not None]
    result = Comparison(recorded_expansions=len(trace["calls"]["expand"]))
    try:
        async for commit in search.commits():
            if result.commits == len(moves):
                result.fault = f"the recording ends after {len(moves)} commits, the search continues"
            else:
                compare_commit(moves[result.commits], commit, result)
            if result.fault:
                return result
    except NotRecorded as error:
        result.fault = f"after commit {result.commits}: {error}"
        return result
    if result.commits < len(moves) or list(search.prefix) != trace["output"]:
        result.fault = f"the search ended with {list(search.prefix)}, the recording with {trace['output']}"
    elif search.simulations != trace["simulations"]:
        result.fault = f"{trace['simulations']} simulations were recorded, {search.simulations} were run"
    result.expansions = len(session.expanded)
    return result


def read_trace(path: Path) -> dict[str, Any]:
    """Read a trace; a file that is missing, not JSON or without a field is a RainError."""
    try:
        trace = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RainError(f"cannot read the trace {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RainError(f"the trace {path} is not JSON: {error}") from error
    if not isinstance(trace, dict):
        raise RainError(f"the trace {path} is not a JSON object")
    for name, kind in FIELDS.items():
        if not isinstance(trace.get(name), kind):
            raise RainError(f"the trace {path} has no field {name!r} of type {kind.__name__}")
    return trace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain replay``."""
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACE.json", help="recorded searches")


def run(args: argparse.Namespace) -> int:
    """Replay every trace, print one line each; return 1 if any differs."""
    different = False
    for path in args.traces:
        trace = read_trace(path)
        try:
            whole, result = asyncio.run(replay(trace, eager=True)), asyncio.run(replay(trace))
            result.fault = whole.fault or result.fault
        except KeyError as error:
            raise RainError(f"the trace {path} has no field {error}") from error
        except (RainError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            reason = error if isinstance(error, RainError) else repr(error)
            raise RainError(f"the trace {path} has a field with a wrong value ({reason})") from error
        different |= bool(result.fault)
        print(
            f"{path}: {'DIFFERS' if result.fault else 'equal'}: {result.commits} commits, {result.simulations} "
            f"simulations, {result.nodes} nodes, largest float difference {result.difference:.1e}, "
            f"{result.expansions} of {result.recorded_expansions} expansions requested"
            + (f"; {result.fault}" if result.fault else "")
        )
        sys.stdout.flush()
    return int(different)
