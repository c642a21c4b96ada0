"""The cache follows the memory of its device: measured at start-up, learnt when memory runs out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
import torch
from support.tiny_models import failing_passes, tiny_engine, tiny_model

from rain.core.engine import SamplingParams
from rain.engines.local import memory
from rain.engines.local.engine import HfEngine
from rain.engines.toy import ToyTokenizer

TEXT = tuple(b"Human: Is the sea salty?\n\nAssistant: Yes. ")
LAYERS, HEADS, SIZE = 2, 2, 8  # of the tiny model's keys and values


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Forget the models of other tests."""
    monkeypatch.setattr(memory, "_measured", WeakKeyDictionary())


@pytest.mark.parametrize(("dtype", "bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("sharers", [1, 3])
def test_the_budget_is_half_of_the_free_memory_by_what_a_token_takes(dtype, bytes, sharers, monkeypatch):
    monkeypatch.setattr(memory, "free_cpu_memory", lambda: 1 << 20)
    monkeypatch.setenv(memory.SHARERS, str(sharers))
    token = 2 * LAYERS * HEADS * SIZE * bytes
    engine = HfEngine(tiny_model().to(dtype), ToyTokenizer())
    assert engine.scheduler.cache_tokens == int((1 << 20) / 2 / sharers / token)
    assert tiny_engine(cache_tokens=77).scheduler.cache_tokens == 77


def test_a_second_model_is_not_promised_what_the_first_may_still_take(monkeypatch):
    monkeypatch.setattr(memory, "free_cpu_memory", lambda: 1 << 20)
    token = 2 * LAYERS * HEADS * SIZE * 4
    writer, cpu = tiny_engine(), torch.device("cpu")
    assert tiny_engine().scheduler.cache_tokens == (1 << 20) // 4 // token
    asyncio.run(writer.session("s").next_logprobs(TEXT, top=1))
    taken = sum(layer.nbytes for layer in writer.scheduler.runner.pool.layers)
    assert taken and memory._promised(cpu) == (1 << 20) // 2 - taken  # the second model is gone
    asyncio.run(writer.close())
    assert memory._promised(cpu) == 0


def test_no_free_memory_at_all_still_leaves_an_engine_that_answers(monkeypatch):
    monkeypatch.setattr(memory, "free_cpu_memory", lambda: 0)
    engine = tiny_engine()
    assert engine.scheduler.cache_tokens == 1
    asyncio.run(engine.session("s").next_logprobs(TEXT, top=1))


def test_on_a_gpu_what_is_free_after_a_full_pass_counts_and_a_shared_gpu_counts_in_parts(monkeypatch):
    free, total, held = 30 << 30, 80 << 30, 15 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: held)
    gpu = torch.device("cuda", 0)
    assert memory._free(gpu) == 0.9 * free
    monkeypatch.setenv(memory.SHARERS, "4")
    assert memory._free(gpu) == pytest.approx(0.9 * (total / 4 - held))
    monkeypatch.setenv(memory.SHARERS, "8")
    assert memory._free(gpu) == 0


def test_a_full_pass_that_does_not_fit_is_tried_with_half_and_any_other_error_is_not(monkeypatch):
    runner, tried, said = tiny_engine().scheduler.runner, [], ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED"]
    forward = runner.forward

    def fail(batch):
        tried.append(len(batch.slots))
        if len(batch.slots) > 5:
            raise RuntimeError(said[0])
        return forward(batch)

    monkeypatch.setattr(runner, "forward", fail)
    assert memory._bytes_per_token(runner, 16) == 2 * LAYERS * HEADS * SIZE * 4
    assert tried == [16, 8, 4]
    said[0] = "shapes differ"
    with pytest.raises(RuntimeError, match="shapes"):
        memory._bytes_per_token(runner, 16)


def machine(root: Path, groups: str, **files: str) -> Path:
    """Make the files of a machine with 8,000 KiB of memory available."""
    files = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n", "proc/self/cgroup": groups, **files}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


KIB = 1024
V1, V2 = "sys/fs/cgroup/memory/memory", "sys/fs/cgroup/a"
AROUND = {f"{V2}/memory.max": f"{5000 * KIB}", f"{V2}/memory.stat": f"anon 7\ninactive_file {1000 * KIB}\n"}
AROUND |= {f"{V2}/memory.current": f"{3000 * KIB}", f"{V2}/b/memory.max": "max"}
INSIDE = {f"{V1}.limit_in_bytes": f"{600 * KIB}", f"{V1}.usage_in_bytes": f"{500 * KIB}"}
UNLIMITED = {f"{V1}.limit_in_bytes": "9223372036854771712", f"{V1}.usage_in_bytes": "1"}
GROUPS = {
    "none": ("", {}, 8000),
    "version 2, the group around": ("0::/a/b\n", {**AROUND, f"{V2}/b/memory.current": f"{3000 * KIB}"}, 3000),
    "version 1, seen from inside": ("4:memory:/elsewhere\n2:cpu:/\n", INSIDE, 100),
    "version 1, unlimited": ("4:memory:/\n", UNLIMITED, 8000),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_process_may_take_what_machine_and_control_groups_leave(name, tmp_path):
    groups, files, kib = GROUPS[name]
    assert memory.free_cpu_memory(machine(tmp_path, groups, **files)) == kib * KIB


def test_without_such_files_some_memory_is_taken_to_be_free(tmp_path):
    assert memory.free_cpu_memory(tmp_path) == 8 << 30


async def test_memory_that_runs_out_is_learnt_and_mostly_kept_filled(capsys):
    """A cache of 400 tokens fits; without learning, every few passes would run out of memory anew."""
    engine, room, left = tiny_engine(max_batch_tokens=16, cache_tokens=10_000), 400, []

    def full(number):
        left.append(sum(map(len, engine.scheduler.trees)))
        return left[-1] > room

    sessions = [engine.session(str(i)) for i in range(12)]
    with failing_passes(engine.model, full) as failures:
        for turn in range(4):
            for number, session in enumerate(sessions):
                await session.generate((*TEXT, number), SamplingParams(n=3, max_tokens=6, seed=turn))
    assert 0 < sum(failures) < 5
    assert 0.6 * room < engine.scheduler.cache_tokens <= 0.8 * (room + 16)
    assert min(left[len(left) // 2 :]) > 0.5 * room, "what fits stays cached"
    assert capsys.readouterr().err.count("out of memory") == 1


async def test_cached_prefixes_count():
    engine = tiny_engine(cache_tokens=100, max_batch_tokens=10)
    await engine.cache_prefix(TEXT)
    for number in range(6):
        await engine.session(str(number)).next_logprobs((*TEXT, number, *TEXT[:15]), top=1)
    assert engine.scheduler.pinned_tokens == len(TEXT)
    assert sum(map(len, engine.scheduler.trees)) <= 100 - len(TEXT)
    assert engine.scheduler.runner.pool.used <= 100
