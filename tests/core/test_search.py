"""The search by hand: when it expands, draws, adds, commits and ends, and with what it asks."""

from __future__ import annotations

import asyncio
import math
from itertools import chain, repeat

import pytest
from support.stand_ins import EOS, PROMPT, FakeSession, alike, all_nodes, inputs, numbered, run_search, search

from rain.core.config import RainConfig
from rain.core.problem import request_seed
from rain.core.search import Search
from rain.core.stop import Stop

CHANCES = {1: 0.2, 2: 0.5, 3: 0.1, 4: 0.15, 6: 0.05}


def small(**changes):
    settings = {"candidates": 3, "max_draws": 2, "max_simulations": 20, "maxlen": 60, "node_addition": False}
    return RainConfig(**{**settings, **changes})


def bad(response):
    return -1.0


def good(response):
    return 1.0


def undecided(response):
    return 0.0


def test_the_first_level_holds_the_most_likely_tokens_with_mixed_priors():
    [first] = run_search(search(FakeSession(CHANCES), undecided, small()), 1)
    assert [child.tokens for child in first.root.children] == [(1,), (2,), (4,)]
    mixed = [0.75 * p / 0.85 + 0.25 / 3 for p in (0.2, 0.5, 0.15)]
    assert [child.prior for child in first.root.children] == pytest.approx(mixed, abs=1e-12)


def test_token_sets_are_1_2_4_then_10_tokens_long_and_drawn_as_configured():
    session = FakeSession(CHANCES)
    commits = run_search(search(session, undecided, small(exploration=0.0, candidate_temperature=2.0, top_k=7)), 5)
    assert [len(commit.tokens) for commit in commits] == [1, 2, 4, 10, 10]
    asked = {(asked.n, asked.temperature, asked.top_k, asked.greedy_first) for asked in session.drawn}
    assert asked == {(1, 2.0, 7, True), (3, 2.0, 7, True)}
    assert {(asked.max_tokens, asked.stop) for asked in session.drawn} == {(n, Stop()) for n in (2, 4, 10)}


def test_a_node_gets_its_greedy_child_at_the_first_simulation_that_passes_and_the_others_at_the_second():
    session = FakeSession(CHANCES)
    [commit] = run_search(search(session, undecided, small(max_simulations=30)), 1)
    nodes = {PROMPT + path: node for path, node in all_nodes(commit.root).items()}
    passed, again = ({path for path, node in nodes.items() if node.visits > times} - {PROMPT} for times in (1, 2))
    asked = [(call.prefix, call.n) for call in session.drawn]
    assert sorted(asked) == sorted([*((path, 1) for path in passed), *((path, 3) for path in again)])
    assert session.ranked == [(PROMPT, 3)]
    assert len(again) < len(passed) < sum(node.visits > 0 for node in nodes.values()) == 30
    once = [nodes[path] for path in passed - again]
    assert [[math.isnan(child.prior) for child in node.children] for node in once] == [[True]] * len(once)
    assert sum(child.prior for path in again for child in nodes[path].children) == pytest.approx(len(again))


def test_what_was_greedy_first_stays_the_first_child_whatever_the_engine_says_later():
    def draw(asked, i):
        return (10 + i + (asked.n > 1),) * asked.max_tokens, 0.1

    session = FakeSession(CHANCES, draw)
    [commit] = run_search(search(session, undecided, small(exploration=0.0, max_simulations=4, extra_simulations=4)), 1)
    children = commit.child.children
    assert [child.tokens for child in children] == [(10, 10), (12, 12), (13, 13)]
    assert [child.prior for child in children] == pytest.approx([0.5, 0.25, 0.25])


def test_lazy_expansion_makes_the_same_commits_and_trees_as_eager_expansion():
    def draw(asked, i):
        tokens = tuple((asked.seed >> (3 * k + i)) % 5 + 1 for k in range(asked.max_tokens))
        return tokens, 0.02 + asked.seed % (i + 7) / 9

    def judge(response):
        return 1.0 if sum(response) % 7 == 0 else -1.0

    def outcome(eager):
        session = FakeSession(CHANCES, draw)
        config = small(node_addition=True, maxlen=40)
        commits = run_search(Search(inputs(judge, alike), session, config, eager=eager))
        trees = [{path: (n.n, n.value) for path, n in all_nodes(c.root).items() if n.visits} for c in commits]
        grown = max(len(node.children) for commit in commits for node in all_nodes(commit.root).values())
        return [(commit.tokens, commit.simulations) for commit in commits], trees, grown, len(session.drawn)

    lazy, eager = outcome(False), outcome(True)
    assert lazy[:3] == eager[:3]
    assert len(lazy[0]) > 3
    assert lazy[2] > 3, "node addition took part"
    assert lazy[3] < eager[3]


def test_a_child_is_committed_once_it_is_visited_and_good_enough():
    config = small(exploration=0.0, min_visits=6)
    [first] = run_search(search(FakeSession(CHANCES), good, config), 1)
    assert first.simulations == 8  # one of the root itself, then seven through its first child
    assert (first.child.visits, first.child.value, first.tokens) == (7, 1.0, (1,))
    [_, second] = run_search(search(FakeSession(CHANCES), good, config), 2)
    assert second.simulations == 1  # its child had six visits already


@pytest.mark.parametrize(("score", "simulations"), [(0.8, 20), (0.81, 8)])
def test_a_value_that_only_equals_the_threshold_is_not_enough(score, simulations):
    [commit] = run_search(search(FakeSession(CHANCES), lambda r: score, small(exploration=0.0, value_threshold=0.8)), 1)
    assert commit.simulations == simulations


def test_a_root_gets_max_simulations_but_at_least_fifteen_new_ones():
    commits = run_search(search(FakeSession(CHANCES), undecided, small(exploration=0.0, max_simulations=20)), 3)
    assert [commit.simulations for commit in commits] == [20, 15, 15]  # v0 is 0, 19, 33: always the same child
    assert [commit.root.visits for commit in commits] == [20, 34, 48]
    spread = run_search(search(FakeSession(CHANCES), undecided, small(exploration=1000.0, max_simulations=40)))
    kept = [commit.root.visits - commit.simulations for commit in spread]
    assert [commit.simulations for commit in spread] == [max(40, v0 + 15) - v0 for v0 in kept]
    assert 0 < kept[1] < 25  # the visits of 40 simulations were shared, so that max_simulations decides


def test_an_early_share_gives_the_first_token_sets_more_simulations():
    config = small(exploration=1000.0, early_share=0.5, max_new_tokens=17)
    commits = run_search(search(FakeSession(CHANCES), undecided, config))
    allowed = [config.new_simulations(c.root.step, 17, c.root.visits - c.simulations) for c in commits]
    assert [commit.simulations for commit in commits] == allowed
    assert allowed[0] == 43, "80 simulations in four token sets: 8/15 of them"


def test_without_a_good_child_the_most_visited_one_is_committed_in_the_end():
    [commit] = run_search(search(FakeSession(CHANCES), undecided, small()), 1)
    assert commit.child.n == max(child.n for child in commit.root.children)
    assert (commit.child.tokens, commit.simulations) == ((2,), 20)


def test_a_new_root_keeps_its_subtree_and_its_childrens_priors_are_mixed():
    session = FakeSession(CHANCES, lambda asked, i: ((10 + i,) * asked.max_tokens, (0.4, 0.2, 0.1)[i]))
    run = search(session, undecided, small())

    async def two_commits():
        commits = run.commits()
        first = await anext(commits)
        kept = [(child, child.prior, child.visits) for child in first.child.children]
        return first, kept, await anext(commits)

    first, kept, second = asyncio.run(two_commits())
    clamped = [0.3, 0.2, 0.1]  # the greedy one down to the sum of the others
    assert [prior for _, prior, _ in kept] == pytest.approx([p / 0.6 for p in clamped], abs=1e-9)
    assert second.root is first.child
    assert second.root.children == [child for child, _, _ in kept]
    mixed = [0.75 * p / 0.6 + 0.25 / 3 for p in clamped]
    assert [child.prior for child, _, _ in kept] == pytest.approx(mixed, abs=1e-9)
    assert sum(child.visits for child, _, _ in kept) > sum(visits for _, _, visits in kept) > 0


def test_session_and_scorer_learn_of_a_commit_after_the_consumer():
    session = FakeSession(CHANCES)
    run = search(session, undecided, small())
    commits = run_search(run, 3)
    prefixes = [PROMPT + sum((c.tokens for c in commits[:k]), ()) for k in (1, 2)]
    assert session.committed == prefixes
    assert run.inputs.scorer.committed == [prefix[len(PROMPT) :] for prefix in prefixes]


def test_texts_are_scored_and_embedded_to_the_end_of_the_rollout():
    session = FakeSession(CHANCES, rollout=lambda asked: (7, 8))
    run = search(session, undecided, small(exploration=0.0, max_simulations=4, extra_simulations=4))
    run_search(run, 1)
    assert run.inputs.scorer.scored == [(7, 8), (1, 7, 8), (1, 10, 10, 7, 8), (1, 10, 10, 10, 10, 10, 10, 7, 8)]
    assert run.inputs.encoder.spans[-1] == [(1, *[10] * 6, 7, 8), (*[10] * 6, 7, 8), (*[10] * 4, 7, 8)]


def test_spans_of_a_later_root_begin_after_what_is_committed():
    run = search(FakeSession(CHANCES, rollout=lambda asked: ()), undecided, small(exploration=0.0))
    commits = run_search(run, 2)
    below = len(commits[0].tokens)
    text, spans = run.inputs.scorer.scored[-1], run.inputs.encoder.spans[-1]
    assert spans[0] == text[below:]
    assert [len(span) for span in spans] == [66, 64, 60, 50, 40, 30, 20, 10]  # the last leaf begins below 60 tokens


def test_nothing_is_embedded_where_nothing_needs_it():
    run = search(FakeSession(CHANCES), undecided, small(similarity_update=False, node_addition=False))
    run_search(run, 1)
    assert set(map(tuple, run.inputs.encoder.spans)) == {()}


def test_a_pause_needs_no_rollout_and_a_rollout_fits_the_limit():
    session = FakeSession(CHANCES)
    run_search(search(session, undecided, small(maxlen=9), pauses=frozenset({2})))
    assert session.rollouts
    assert all(asked.prefix[-1] != 2 for asked in session.rollouts)
    assert all(asked.max_tokens == 9 - len(asked.prefix) for asked in session.rollouts)
    assert {(asked.n, asked.temperature, asked.top_k) for asked in session.rollouts} == {(1, 1.0, 0)}


def test_duplicates_are_drawn_anew_until_enough_are_distinct_or_the_draws_are_spent():
    replies = {(1, True): "g", (4, True): "gaaa", (2, False): "ab", (1, False): "a"}

    def draw(asked, i):
        letter = replies[asked.n, asked.greedy_first][i]
        return (ord(letter),) * asked.max_tokens, 0.1 * "gab".index(letter) + 0.1

    session = FakeSession(CHANCES, draw)
    config = small(candidates=4, max_draws=6, exploration=0.0, max_simulations=4, extra_simulations=4)
    [commit] = run_search(search(session, undecided, config), 1)
    drawn = [asked for asked in session.drawn if len(asked.prefix) == 3]
    assert [(asked.n, asked.greedy_first) for asked in drawn] == [(1, True), (4, True), (2, False), (1, False)]
    assert len({asked.seed for asked in drawn[1:]}) == 3
    children = commit.child.children
    assert [child.tokens for child in children] == [(ord(letter),) * 2 for letter in "gab"]
    assert [child.prior for child in children] == pytest.approx([0.5, 0.2, 0.3])  # greedy up from 0.1 to 0.3 + 0.2


def test_with_max_draws_9_duplicates_are_only_dropped():
    session = FakeSession(CHANCES, lambda asked, i: ((10 + i // 2,) * asked.max_tokens, 0.1))
    config = RainConfig(exploration=0.0, max_simulations=4, extra_simulations=4)
    [commit] = run_search(search(session, undecided, config), 1)
    assert [asked.n for asked in session.drawn if len(asked.prefix) == 3] == [1, 10]
    assert [child.tokens for child in commit.child.children] == [(token, token) for token in range(10, 15)]


def test_a_root_with_alike_and_bad_children_gets_the_next_likely_token():
    session = FakeSession(CHANCES)
    config = small(candidates=2, max_draws=1, max_simulations=6, extra_simulations=6, node_addition=True)
    [commit] = run_search(search(session, bad, config, embed=alike), 1)
    assert [top for prefix, top in session.ranked if prefix == PROMPT] == [2, 3, 4]
    assert [child.tokens for child in commit.root.children] == [(1,), (2,), (4,), (3,)]
    old = [0.75 * p / 0.7 + 0.125 for p in (0.2, 0.5)]
    third, fourth = 0.75 * 0.15 / 0.85 + 0.25 / 3, 0.75 * 0.1 / 0.95 + 0.25 / 4
    assert [child.prior for child in commit.root.children] == pytest.approx([*old, third, fourth], abs=1e-12)


def test_fresh_candidates_come_first_and_old_children_stay():
    """Node addition of longer token sets: the list grows at its front, with duplicates; old children stay."""
    sampled = chain([11, 7], repeat(8))

    def draw(asked, i):
        token = 10 if i == 0 else next(sampled)
        return (token,) * asked.max_tokens, {10: 0.3, 11: 0.2, 7: 0.15, 8: 0.25}[token]

    session = FakeSession({1: 1.0}, draw)
    config = RainConfig(candidates=2, max_draws=1, max_simulations=20, token_set_lengths=(1, 2), maxlen=5)
    [commit] = run_search(search(session, bad, config, embed=alike), 1)
    [child] = commit.root.children
    assert [node.tokens for node in child.children] == [(10, 10), (11, 11), (7, 7), (8, 8)]
    assert {(asked.n, asked.greedy_first) for asked in session.drawn} == {(1, True), (2, True)}
    # a greedy p beside a single other becomes twice the other's: 0.4 with 11, 0.3 with 7, 0.5 with 8
    third = 0.15 / (0.3 + 0.15 + 0.4)  # out of 10, 7, 10 of the list 10, 7, 10, 11
    fourth = 0.25 / (0.5 + 0.25 + 0.3 + 0.15)  # out of 10, 8, 10, 7 of the list 10, 8, 10, 7, 10, 11
    priors = [node.prior for node in child.children]
    assert priors == pytest.approx([0.4 / 0.6, 0.2 / 0.6, third, fourth], abs=1e-9)


def test_the_end_of_sequence_ends_the_response_with_the_commit_that_holds_it():
    session = FakeSession({1: 0.6, 2: 0.4}, lambda asked, i: ((EOS if i == 0 else 10 + i, 12), 0.1))
    run = search(session, undecided, small(candidates=2, max_draws=1, exploration=0.0, token_set_lengths=(1, 2)))
    commits = run_search(run)
    assert [(commit.tokens, commit.finish) for commit in commits] == [((1,), None), ((EOS, 12), "eos")]
    assert run.prefix == (*PROMPT, 1, EOS, 12)
    assert all(EOS not in asked.prefix for asked in session.drawn + session.rollouts)
    assert not commits[-1].child.children


def test_the_length_limit_ends_the_response_and_nothing_is_asked_beyond_it():
    session = FakeSession(CHANCES)
    run = search(session, undecided, small(maxlen=10))
    commits = run_search(run)
    assert [commit.finish for commit in commits][-2:] == [None, "length"]
    assert len(run.prefix) >= 10 > len(run.prefix) - len(commits[-1].tokens)
    assert all(len(asked.prefix) < 10 for asked in session.drawn + session.rollouts)


def test_an_end_of_sequence_beyond_the_limit_is_not_why_a_response_ends():
    session = FakeSession({1: 1.0}, lambda asked, i: ((10 + i, EOS), 0.1))
    for limit, finish in ((len(PROMPT) + 2, "length"), (len(PROMPT) + 3, "eos")):
        run = search(session, undecided, small(maxlen=limit, token_set_lengths=(1, 2)))
        assert [commit.finish for commit in run_search(run)] == [None, finish]


def test_a_prompt_without_room_ends_at_once_and_asks_nothing():
    session = FakeSession(CHANCES)
    run = search(session, undecided, small(maxlen=len(PROMPT)))
    assert run_search(run) == []
    assert run.finish == "empty"
    assert [*session.drawn, *session.ranked, *session.rollouts] == []


def test_every_request_has_a_seed_of_its_own_that_depends_on_the_key_alone():
    def seeds(key):
        session = FakeSession(CHANCES, numbered)
        run_search(search(session, bad, small(node_addition=True), embed=alike, key=key))
        return [asked.seed for asked in session.drawn + session.rollouts if (asked.n, asked.greedy_first) != (1, True)]

    first = seeds("0/hh-1")
    assert len(set(first)) == len(first) > 20
    assert first == seeds("0/hh-1")
    assert set(first).isdisjoint(seeds("0/hh-2") + seeds("1/hh-1"))
    assert all(0 <= seed < 2**63 for seed in first)
    asked = [("k", "add", (1, 2), 0), ("k", "add", (1, 2), 1), ("k", "add", (12,), 0), ("k", "rollout", (1, 2), 0)]
    assert len({request_seed(*each) for each in asked}) == len(asked)


def test_errors_of_the_engine_reach_the_caller():
    def broken(asked, i):
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        run_search(search(FakeSession(CHANCES, broken), undecided, small()))


def test_an_encoder_that_fails_cancels_the_score_that_nobody_waits_for_any_more():
    cancelled = []

    async def wait(response):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(response)
            raise

    async def fail(spans):
        await asyncio.sleep(0)
        raise MemoryError("no more")

    run = search(FakeSession(CHANCES), undecided, small())
    run.inputs.scorer.score, run.inputs.encoder.encode = wait, fail

    async def fails():
        with pytest.raises(MemoryError, match="no more"):
            await anext(run.commits())
        return len(cancelled)

    assert asyncio.run(fails()) == 1


@pytest.mark.parametrize("allowed", [0, 1, 7, 25])
def test_a_budget_ends_a_search_between_simulations_and_keeps_what_is_committed(allowed):
    def run(limit):
        found = search(FakeSession(CHANCES), bad, small(maxlen=20))
        found.out_of_budget = lambda: found.simulations >= limit
        return found, [commit.tokens for commit in run_search(found)]

    (limited, part), (whole, all_of_it) = run(allowed), run(10**6)
    assert (limited.finish, whole.finish) == ("budget", "length")
    assert limited.simulations == allowed
    assert part == all_of_it[: len(part)] != all_of_it
    assert limited.prefix == PROMPT + sum(part, ())


def test_a_response_that_cannot_continue_ends():
    run = search(FakeSession({}), undecided, small())
    assert run_search(run) == []
    assert run.finish == "empty"
