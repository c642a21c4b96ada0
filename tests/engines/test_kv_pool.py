"""The pool of keys and values: slots are taken and given back, and what is kept stays what it was."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import nullcontext
from weakref import WeakSet

import pytest
import torch
from support.tiny_models import tiny_engine
from torch.utils._python_dispatch import TorchDispatchMode

from rain.core.engine import SamplingParams
from rain.engines.local.batch import Layout, Span
from rain.engines.local.kv_cache import KvPool, KvTree

LAYERS = 3


def filled(pool, tokens, base=None):
    """Return a tree that is one chain of tokens; the numbers that are stored say layer and token."""
    tree = KvTree(pool, base)
    chain = tree.match_prefix([])
    tree.extend(chain, tokens)
    pool.reserve()
    for layer in range(LAYERS):
        numbers = torch.tensor([[1000.0 * layer + token] * 2 for token in tokens])[None]
        pool.store(layer, numbers, -numbers, torch.tensor(list(tree.nodes)))
    return tree


def assert_intact(pool, *trees):
    assert pool.used == sum(map(len, trees)) == len({slot for tree in trees for slot in tree.nodes})
    for tree in trees:
        tokens = [node.token for node in tree.nodes.values()]
        before = [node.token for node in tree.base.nodes.values()] if tree.base else []
        assert list(tree.match_prefix(before + tokens)[len(before) :]) == list(tree.nodes)
        for layer, stored in enumerate(pool.layers):
            numbers = torch.tensor([[[1000.0 * layer + token]] for token in tokens])
            assert torch.equal(stored[list(tree.nodes)], numbers * torch.tensor([1, 1, -1, -1]))


def test_a_commit_gives_back_what_it_drops_and_copies_nothing():
    pool = KvPool(1000)
    first, second = filled(pool, range(1, 300)), filled(pool, range(300, 400))
    first.extend(list(first.nodes)[:2], [7])
    before = [layer.data_ptr() for layer in pool.layers], list(first.nodes)[:5]
    first.prune_to(range(1, 6))
    assert (len(first), pool.used) == (299, 399), "the other branch is gone"
    first.prune_to(list(range(1, 6)) + [0])
    assert list(first.nodes) == before[1], "what does not continue a longer text is gone"
    third = filled(pool, range(400, 600))
    assert [layer.data_ptr() for layer in pool.layers] == before[0], "the slots of before are enough"
    assert_intact(pool, first, second, third)
    del third
    assert pool.used == 105


def test_a_pool_grows_by_half_up_to_its_limit_and_beyond_it_by_what_is_needed():
    pool, found = KvPool(1000), []
    for _ in range(6):
        pool.trees.add(tree := filled(pool, range(200)))
        found.append((tree, len(pool.layers[0])))
    assert [length for _, length in found] == [256, 400, 600, 900, 1000, 1200]


class Failing(TorchDispatchMode):
    """Out of memory at call number ``failing`` of an operation that takes memory."""

    def __init__(self, failing):
        super().__init__()
        self.failing, self.calls = failing, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.index_select.default, torch.ops.aten.clone.default):
            self.calls += 1
            if self.calls == self.failing:
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("failing", range(2 * LAYERS + 1))
def test_a_pool_that_shrinks_keeps_every_token_even_if_memory_runs_out_meanwhile(failing):
    pool = KvPool(1000)
    base = filled(pool, range(900, 940))
    trees = [filled(pool, range(100 * i, 100 * i + 90), base if i % 2 else None) for i in range(5)]
    for tree in trees[::2]:
        tree.evict_except([list(tree.nodes)[:30]])
    base_first = filled(pool, range(950, 999), base)  # in slots that others gave back
    with Failing(failing):
        pool.shrink()
    moved, smaller = pool.size == pool.used, [len(layer) == pool.used for layer in pool.layers]
    assert moved == (failing == 0 or failing > LAYERS)
    assert smaller == [moved and (failing == 0 or layer < failing - LAYERS - 1) for layer in range(LAYERS)]
    assert_intact(pool, base, base_first, *trees)
    assert_intact(pool, base, base_first, *trees, filled(pool, range(700, 900)))


class Ending(WeakSet):
    """Trees of which some end, as garbage in a cycle does, while they are listed."""

    def __iter__(self):
        self.last.clear()
        return super().__iter__()


def test_a_tree_that_ends_while_a_pool_shrinks_takes_its_slots_along():
    pool = KvPool(1000)
    pool.trees = Ending()
    pool.trees.last = [filled(pool, range(20))]
    kept = filled(pool, range(100, 150))
    pool.shrink()
    assert pool.size == 50
    assert_intact(pool, kept)


@pytest.mark.parametrize("said", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "broken"])
def test_a_pool_that_shrinks_knows_memory_that_ran_out_in_any_words(said, monkeypatch):
    def fail(*_):
        raise RuntimeError(said)

    pool = KvPool(1000)
    tree = filled(pool, range(20))
    tree.truncate(10)
    monkeypatch.setattr(torch.Tensor, "index_copy_", fail)
    with nullcontext() if "ALLOC" in said else pytest.raises(RuntimeError, match="broken"):
        pool.shrink()
    assert_intact(pool, tree)


@pytest.mark.parametrize("waste", [0, 30, math.inf])
@pytest.mark.parametrize("seed", range(5))
def test_a_query_sees_its_own_chain_up_to_itself_and_nothing_else(seed, waste):
    rng, pool = random.Random(seed), KvPool()
    bases = [filled(pool, range(rng.randrange(1, 9))) for _ in range(2)]
    spans = []
    for number in range(6):
        tree = KvTree(pool, rng.choice([None, *bases]))
        chains = [tree.match_prefix([])]
        for token in range(rng.randrange(1, 6)):
            chain = list(rng.choice(chains))
            tokens = [100 * number + 10 * token + i for i in range(rng.randrange(1, 4))]
            tree.extend(chain, tokens)
            chains.append(chain)
            spans.append(Span(chain, tokens, tree))
    rng.shuffle(spans)
    layout = Layout(spans, pool.size, waste)
    rows = [(slot, span.chain) for span in layout.spans for slot in span.chain[-len(span.tokens) :]]
    assert list(zip(layout.slots, layout.positions, strict=True)) == [(slot, chain.index(slot)) for slot, chain in rows]
    assert [row for group in layout.groups for row in range(len(rows))[group.rows]] == list(range(len(rows)))
    assert len(layout.groups) == 1 if waste == math.inf else len(layout.groups) > 1
    for group in layout.groups:
        here = rows[group.rows]
        for window in (0, 3):
            mask = group.mask(window, 2, torch.zeros(0))
            hidden = torch.zeros(2 * len(here), len(group.keys)) if mask is None else mask
            for (slot, chain), row in zip([*here, *here], hidden, strict=True):
                assert set(group.keys[row == 0].tolist()) == set(chain[: chain.index(slot) + 1][-window:])


def test_no_slot_is_lost_however_requests_end():
    engine = tiny_engine(cache_tokens=300, max_batch_tokens=16)

    async def run():
        await engine.cache_prefix((1, 2, 3))
        sessions = [engine.session(str(i)) for i in range(3)]
        params = SamplingParams(n=2, max_tokens=30)
        tasks = [asyncio.create_task(s.generate((1, 2, 3, 4 + i), params)) for i, s in enumerate(sessions)]
        while len(engine.scheduler.trees) < 3:
            await asyncio.sleep(0)
        await sessions[0].close()  # while its request is running
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session in sessions:
            await session.close()
        await engine.cache_prefix((5, 6))  # a step in which the requests that have ended leave

    asyncio.run(run())
    assert engine.scheduler.runner.pool.used == 3 + 2, "the prefixes alone"
    asyncio.run(engine.close())
    assert engine.scheduler.runner.pool.layers == []
