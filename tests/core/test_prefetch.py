"""Computing ahead: the same decisions in fewer rounds of the model, whatever is guessed, cancelled or fails."""

from __future__ import annotations

import asyncio

import pytest
from support.stand_ins import FakeSession, alike, all_nodes, inputs, run_search, unlike

from rain.core.config import RainConfig
from rain.core.errors import RainError
from rain.core.prefetch import Guess, Visit, guess_next
from rain.core.search import Search
from rain.core.tree import Node

CHANCES = {1: 0.2, 2: 0.5, 3: 0.1, 4: 0.15, 6: 0.05}
CONFIG = RainConfig(candidates=3, max_draws=2, max_simulations=20, max_new_tokens=30)


class Rounds:
    """A clock that strikes when everybody waits: what asks between two strokes is in the same round."""

    def __init__(self) -> None:
        self.count, self._waiting, self._task = 0, [], None

    async def wait(self) -> None:
        if not self._waiting:
            self._task = asyncio.create_task(self._strike())
        self._waiting.append(asyncio.get_running_loop().create_future())
        await self._waiting[-1]

    async def _strike(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        self.count += 1
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class SlowSession(FakeSession):
    """A session whose answers take a round for each token."""

    def __init__(self, rounds: Rounds) -> None:
        super().__init__(CHANCES, draw, lambda asked: (5,) * (1 + asked.seed % 3))
        self.rounds, self.asked = rounds, []

    async def generate(self, prefix, params):
        self.asked.append(prefix)
        found = await super().generate(prefix, params)
        for _ in found[0].tokens:
            await self.rounds.wait()
        return found

    async def next_logprobs(self, prefix, *, top=0, ids=()):
        await self.rounds.wait()
        return await super().next_logprobs(prefix, top=top, ids=ids)


def draw(asked, i):
    tokens = tuple((asked.seed >> (3 * k + i)) % 5 + 1 for k in range(asked.max_tokens))
    return tokens, 0.02 + asked.seed % (i + 7) / 9


def judge(response) -> float:
    return 1.0 if sum(response) % 7 == 0 else -1.0 + sum(response) % 5 / 4


async def slow_search(prefetch: int, embed=unlike) -> tuple[list, list, int, Search]:
    """Return the commits, the statistics of their trees, and the rounds that they took."""
    rounds = Rounds()
    session = SlowSession(rounds)
    found = inputs(judge, embed)
    score = found.scorer.score

    async def slow_score(response):
        session.asked.append(found.prompt + response)
        await rounds.wait()
        return await score(response)

    found.scorer.score = slow_score
    search = Search(found, session, CONFIG, prefetch=lambda: prefetch)
    commits, trees, prefix = [], [], found.prompt
    try:
        async for commit in search.commits():
            commits.append((commit.tokens, commit.simulations, commit.finish))
            assert all(asked[: len(prefix)] == prefix for asked in session.asked), "nobody needs that any more"
            prefix, session.asked = search.prefix, []
            nodes = all_nodes(commit.root).items()
            trees.append({path: (n.n, n.visits, n.value, str(n.prior)) for path, n in nodes})
    finally:
        await search.prefetch.close()
    return commits, trees, rounds.count, search


@pytest.mark.parametrize("embed", [alike, unlike])
def test_the_same_trees_are_made_in_fewer_rounds_the_more_is_computed_ahead(embed):
    commits, trees, rounds, _ = asyncio.run(slow_search(0, embed))
    assert len(commits) > 3
    for ahead, most in ((1, 0.9), (8, 0.8)):
        ahead_commits, ahead_trees, ahead_rounds, _ = asyncio.run(slow_search(ahead, embed))
        assert (ahead_commits, ahead_trees) == (commits, trees)
        assert ahead_rounds < most * rounds
        rounds = ahead_rounds


def test_nothing_is_left_when_a_search_is_given_up():
    async def left(turns: int) -> set[asyncio.Task]:
        task = asyncio.create_task(slow_search(8))
        for _ in range(turns):
            await asyncio.sleep(0)
        running = len(asyncio.all_tasks())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert running > 3, "something was computed ahead"
        return {each for each in asyncio.all_tasks() - {asyncio.current_task()} if "_strike" not in repr(each)}

    assert not asyncio.run(left(500))


def test_what_fails_ahead_fails_where_it_is_needed():
    class Broken(FakeSession):
        lost = None

        async def generate(self, prefix, params):
            await asyncio.sleep(0)
            if params.purpose == "rollout" and prefix == self.lost:
                raise RainError("lost")
            return await super().generate(prefix, params)

    whole = Broken(CHANCES)
    run_search(Search(inputs(judge), whole, CONFIG))

    def run(prefetch):
        session = Broken(CHANCES)
        session.lost = whole.rollouts[5].prefix
        search = Search(inputs(judge), session, CONFIG, prefetch=lambda: prefetch)
        with pytest.raises(RainError, match="lost"):
            run_search(search)
        return search.simulations

    assert run(8) == run(0) == 5


def test_the_guess_is_the_next_leaf_if_the_score_is_that_of_the_parent():
    root = Node((), 0)
    root.add_children([((1,), 0.5), ((2,), 0.5)])
    first, second = root.children
    root.n, root.visits, root.value = 2.0, 2, 0.5
    first.n, first.visits, first.value = 1.0, 1, 0.5
    before = [(node.n, node.visits, node.value) for node in (root, first, second)]
    assert guess_next(root, [Visit([root, second], None)], CONFIG) == Guess([root, first], 1)
    assert guess_next(root, [Visit([root, second], 1.0)], CONFIG) == Guess([root, second], 1)
    assert guess_next(root, [Visit([root, first], None)], CONFIG) == Guess([root, second], 0)
    twice = [Visit([root, first], -1.0), Visit([root, second], 1.0)]
    assert guess_next(root, twice, CONFIG) == Guess([root, second], 1)
    again = [*twice, Visit([root, second], 1.0)]
    assert guess_next(root, again, CONFIG) == Guess([root, second], 2), "at the child that is chosen first of its own"
    more = [*again, Visit([root, second], 1.0)]
    assert guess_next(root, more, CONFIG) == Guess([root, second], None), "its children are not known"
    past = [*more, *[Visit([root, second], None)] * 5]
    assert guess_next(root, past, CONFIG) == Guess([root, first], 2), "the first one's turn comes nevertheless"
    assert [(node.n, node.visits, node.value) for node in (root, first, second)] == before
