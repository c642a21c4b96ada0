"""What the engine for vLLM does without vLLM: its guard, and what it tells nobody."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from rain.core.engine import SamplingParams
from rain.core.errors import RainError
from rain.engines.remote import vllm
from rain.engines.remote.engine import WHOLE
from rain.engines.remote.vllm import GUARD, QUIET, VllmEngine, open_vllm
from rain.engines.toy import ToyTokenizer, log_distribution


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"], **PIPES)


PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


def test_the_guard_kills_every_process_that_is_left_when_the_first_is_gone():
    gone, ended, left = (sleeper() for _ in range(3))
    gone.communicate()
    guard = subprocess.Popen(
        [sys.executable, "-c", GUARD, *(str(p.pid) for p in (gone, ended, left))],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for process in (ended, left):
        process.stdout.readline()
    ended.kill()
    _, errors = guard.communicate(timeout=60)
    assert left.wait(60) == -9 and errors == b""
    for process in (ended, left):
        process.communicate()


def test_usage_statistics_are_off():
    assert QUIET["VLLM_NO_USAGE_STATS"] == QUIET["DO_NOT_TRACK"] == "1"


def test_the_advice_for_a_missing_vllm_names_no_package_of_an_index(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    for name in list(os.environ):
        if name.startswith("VLLM_"):
            monkeypatch.delenv(name)
    with pytest.raises(RainError, match=r"pip install -e '\.\[vllm\]'"):
        open_vllm("nowhere", ToyTokenizer())


class FormulaVllm:
    """Answers as vLLM does, by the formula of the toy model: the greedy token, with as many log-probabilities."""

    limit, dtype = 256, "float32"

    def __init__(self):
        self.requests = []

    async def run(self, request):
        self.requests.append(request)
        row = log_distribution(request.prefix)
        ranked = sorted(range(len(row)), key=lambda token: -row[token])
        top = ranked if request.logprobs == WHOLE else ranked[: request.logprobs]
        tops = [{token: SimpleNamespace(logprob=row[token]) for token in top}] if request.logprobs else None
        part = SimpleNamespace(index=0, token_ids=ranked[:1], logprobs=tops, finish_reason="length")
        return SimpleNamespace(outputs=[part], num_cached_tokens=None)


def test_an_id_that_is_not_among_the_most_likely_is_looked_up_in_the_whole_vocabulary():
    prefix = tuple(b"Is the sea salt")
    row = log_distribution(prefix)
    ranked = sorted(range(len(row)), key=lambda token: -row[token])
    session = VllmEngine(FormulaVllm(), ToyTokenizer()).session("s")
    for ids, requested in ((ranked[:2], [20]), ([ranked[3], *ranked[200:202]], [20, WHOLE])):
        session.engine._vllm.requests.clear()
        known = asyncio.run(session.next_logprobs(prefix, top=2, ids=ids))
        assert known == {token: pytest.approx(row[token]) for token in {*ranked[:2], *ids}}
        assert [request.logprobs for request in session.engine._vllm.requests] == requested
    assert (session.usage.requests, session.usage.forward_passes) == (2, 3)


def test_what_needs_no_logprobs_requests_none():
    engine = VllmEngine(FormulaVllm(), ToyTokenizer())
    [answer] = asyncio.run(engine.session("s").generate((1, 2), SamplingParams(1, temperature=2.0, logprobs=False)))
    assert (len(answer.tokens), answer.logprobs) == (1, ())
    assert [request.logprobs for request in engine._vllm.requests] == [0]


@pytest.mark.parametrize(("gpus", "sharers"), [(0, 1), (2, 1), (1, 4)])
def test_on_gpus_many_sequences_run_at_once_and_memory_is_left_for_the_encoder(gpus, sharers, monkeypatch):
    given, locks = {}, []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(vllm, "FileLock", lambda path: nullcontext(locks.append(path)))
    monkeypatch.setattr(
        vllm, "AsyncVllm", lambda options: given.update(options) or SimpleNamespace(limit=8, dtype="bfloat16")
    )
    monkeypatch.setattr(vllm.os, "environ", {"RAIN_MEMORY_SHARERS": str(sharers)})
    open_vllm("somewhere", ToyTokenizer())
    assert given["tensor_parallel_size"] == max(1, gpus)
    assert len(locks) == (sharers > 1), "those that share a GPU start one after the other"
    limits = {"max_num_seqs": 512, "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.85 / sharers}
    assert {name: given.get(name) for name in limits} == (limits if gpus else dict.fromkeys(limits))
