"""What the engine for vLLM does without vLLM: its guard, and what it tells nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from rain.core.errors import RainError
from rain.engines.remote import vllm
from rain.engines.remote.vllm import GUARD, QUIET, open_vllm
from rain.engines.toy import ToyTokenizer


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


@pytest.mark.parametrize(("gpus", "sharers"), [(0, 1), (2, 1), (1, 4)])
def test_on_gpus_many_sequences_run_at_once_and_memory_is_left_for_the_encoder(gpus, sharers, monkeypatch):
    given = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(
        vllm, "AsyncVllm", lambda options: given.update(options) or SimpleNamespace(limit=8, dtype="bfloat16")
    )
    monkeypatch.setattr(vllm.os, "environ", {"RAIN_MEMORY_SHARERS": str(sharers)})
    open_vllm("somewhere", ToyTokenizer())
    assert given["tensor_parallel_size"] == max(1, gpus)
    limits = {"max_num_seqs": 512, "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.85 / sharers}
    assert {name: given.get(name) for name in limits} == (limits if gpus else dict.fromkeys(limits))
