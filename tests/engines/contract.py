"""One suite that every engine passes (see ``rain.core.engine``): each engine's test file subclasses it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

import pytest

from rain.core.engine import Engine, SamplingParams
from rain.core.errors import RainError
from rain.core.stop import Stop

CONTEXT = 256
DRAWS = 400


@dataclass
class Subject:
    """An engine under test.

    Attributes:
        engine, tokenizer: opened.
        tolerance: of log-probabilities (nats).
        context: longest sequence in tokens.
        hottest: temperature that it still takes.
    """

    engine: Engine
    tokenizer: Any
    tolerance: float = 1e-4
    context: int = CONTEXT
    hottest: float = 4.0


def generate(engine, prefix, **params):
    return asyncio.run(engine.session("s").generate(prefix, SamplingParams(**params)))


def next_logprobs(engine, prefix, **options):
    return asyncio.run(engine.session("s").next_logprobs(prefix, **options))


def tokens_of(continuations):
    return [continuation.tokens for continuation in continuations]


def expected_logprobs(engine, prefix, tokens, temperature, top_k):
    """Return what each token's log-probability must be, by temperature, top-k and sum of the raw log-probabilities."""
    found = []
    for i, token in enumerate(tokens):
        raw = next_logprobs(engine, (*prefix, *tokens[:i]), top=top_k)
        weights = {other: math.exp(logprob / temperature) for other, logprob in raw.items()}
        assert token in weights, f"token {i} is none of the {top_k} most likely"
        found.append(math.log(weights[token] / sum(weights.values())))
    return found


class EngineContract:
    """A subclass has a fixture ``subject``."""

    @pytest.fixture
    def engine(self, subject):
        return subject.engine

    @pytest.fixture
    def tokenizer(self, subject):
        return subject.tokenizer

    @pytest.fixture
    def prefix(self, tokenizer):
        return tuple(tokenizer.encode("Human: Is the sea salt"))

    def test_n_continuations_come_back_each_of_the_wanted_length_with_a_logprob_per_token(self, engine, prefix):
        for n, length in ((1, 1), (3, 4), (10, 2)):
            answers = generate(engine, prefix, n=n, max_tokens=length, top_k=15, seed=1)
            assert [len(answer.tokens) for answer in answers] == [length] * n
            assert [len(answer.logprobs) for answer in answers] == [length] * n
            assert {answer.finish for answer in answers} == {"length"}
            assert all(isinstance(token, int) for answer in answers for token in answer.tokens)

    def test_the_greedy_first_takes_the_most_likely_token_each_time(self, engine, prefix):
        first = generate(engine, prefix, n=4, max_tokens=6, temperature=2.0, top_k=5, greedy_first=True, seed=3)[0]
        for i, token in enumerate(first.tokens):
            assert next_logprobs(engine, (*prefix, *first.tokens[:i]), top=1).keys() == {token}
        alone = generate(engine, prefix, max_tokens=6, greedy_first=True)[0]
        assert alone.tokens == first.tokens

    @pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 15), (2.0, 5), (0.5, 3), (1.0, 1)])
    def test_logprobs_are_after_temperature_and_top_k_for_drawn_and_greedy_tokens(
        self, subject, engine, prefix, temperature, top_k
    ):
        answers = generate(
            engine, prefix, n=3, max_tokens=3, temperature=temperature, top_k=top_k, greedy_first=True, seed=5
        )
        for answer in answers:
            expected = expected_logprobs(engine, prefix, answer.tokens, temperature, top_k)
            assert answer.logprobs == pytest.approx(expected, abs=subject.tolerance)

    def test_without_top_k_the_whole_vocabulary_is_drawn_from(self, subject, engine, tokenizer, prefix):
        vocabulary = range(len(tokenizer))
        for temperature in (1.0, min(3.0, subject.hottest)):
            [answer] = generate(engine, prefix, max_tokens=4, temperature=temperature, seed=11)
            for i, (token, logprob) in enumerate(zip(answer.tokens, answer.logprobs, strict=True)):
                raw = next_logprobs(engine, (*prefix, *answer.tokens[:i]), ids=vocabulary)
                total = math.log(sum(math.exp(value / temperature) for value in raw.values()))
                assert logprob == pytest.approx(raw[token] / temperature - total, abs=subject.tolerance)

    def test_drawn_tokens_follow_their_probabilities(self, engine, prefix):
        answers = generate(engine, prefix, n=DRAWS, max_tokens=1, top_k=4, seed=17)
        best = next_logprobs(engine, prefix, top=4)
        total = sum(map(math.exp, best.values()))
        for token, logprob in best.items():
            share = sum(answer.tokens == (token,) for answer in answers) / DRAWS
            chance = math.exp(logprob) / total
            assert share == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / DRAWS))

    def test_the_same_seed_draws_the_same_and_another_seed_something_else(self, engine, prefix):
        options = {"n": 5, "max_tokens": 6, "top_k": 15}
        once = generate(engine, prefix, seed=7, **options)
        assert tokens_of(generate(engine, prefix, seed=7, **options)) == tokens_of(once)
        other = generate(engine, prefix, seed=8, **options)
        assert set(tokens_of(other)) != set(tokens_of(once))
        assert len(set(tokens_of(once))) > 1, "the continuations of one request are independent"

    def test_a_continuation_depends_on_seed_and_index_alone_not_on_how_many_are_asked_for(self, engine, prefix):
        many = generate(engine, prefix, n=6, max_tokens=5, top_k=15, seed=9)
        few = generate(engine, prefix, n=2, max_tokens=5, top_k=15, seed=9)
        greedy = generate(engine, prefix, n=3, max_tokens=5, top_k=15, seed=9, greedy_first=True)
        assert tokens_of(few) == tokens_of(many[:2])
        assert tokens_of(greedy[1:]) == tokens_of(many[1:3])

    def test_large_seeds_are_told_apart(self, engine, prefix):
        seeds = (0, 1, 2**62, 2**62 + 1, 2**63 - 1)
        assert len({generate(engine, prefix, max_tokens=8, seed=seed)[0].tokens for seed in seeds}) == len(seeds)

    def test_neighbouring_seeds_share_no_continuation(self, engine, prefix):
        first, second = (generate(engine, prefix, n=4, max_tokens=8, top_k=15, seed=seed) for seed in (5, 6))
        assert not set(tokens_of(first)) & set(tokens_of(second))

    async def test_an_answer_does_not_depend_on_order_neighbours_or_session(self, subject, engine, prefix):
        requests = [
            SamplingParams(n=3, max_tokens=5, top_k=15, seed=1),
            SamplingParams(max_tokens=9, seed=2),
            SamplingParams(n=4, max_tokens=2, top_k=5, temperature=2.0, greedy_first=True, seed=3),
            SamplingParams(max_tokens=12, seed=4, stop=Stop(strings=("e",))),
        ]
        pairs = list(zip((prefix, prefix[:5], (*prefix, prefix[0]), prefix), requests, strict=True))
        session = engine.session("alone")
        alone = [await session.generate(*pair) for pair in pairs]
        sessions = [engine.session(str(i)) for i in range(2)]
        jobs = [sessions[i % 2].generate(*pairs[i]) for i in reversed(range(4))]
        questions = [sessions[0].next_logprobs(p, top=3) for p, _ in pairs]
        together = await asyncio.gather(*jobs, *questions)
        for session in sessions * 2:
            await session.close()
        for one, other in zip(alone, together[:4][::-1], strict=True):
            assert tokens_of(one) == tokens_of(other)
            assert [a.finish for a in one] == [a.finish for a in other]
            for a, b in zip(one, other, strict=True):
                assert a.logprobs == pytest.approx(b.logprobs, abs=subject.tolerance)

    def test_a_stop_id_ends_a_continuation_and_is_kept(self, engine, prefix):
        [free] = generate(engine, prefix, max_tokens=12, seed=21)
        stop = Stop(token_ids=frozenset({free.tokens[4]}))
        [stopped] = generate(engine, prefix, max_tokens=12, seed=21, stop=stop)
        end = free.tokens.index(free.tokens[4]) + 1
        assert (stopped.tokens, stopped.finish) == (free.tokens[:end], "stop")
        assert len(stopped.logprobs) == end

    def test_a_stop_id_at_the_last_possible_token_is_a_stop(self, engine, prefix):
        [free] = generate(engine, prefix, max_tokens=3, seed=22)
        assert free.tokens[2] not in free.tokens[:2], "choose another seed: the third token must be new"
        [stopped] = generate(engine, prefix, max_tokens=3, seed=22, stop=Stop(frozenset({free.tokens[2]})))
        assert stopped.tokens == free.tokens and (free.finish, stopped.finish) == ("length", "stop")

    def test_a_stop_string_ends_a_continuation_with_the_token_that_completes_it(self, engine, tokenizer, prefix):
        [free] = generate(engine, prefix, max_tokens=16, greedy_first=True, stop=Stop())
        text = tokenizer.decode(list(free.tokens))
        string = next(text[i : i + 2] for i in range(2, len(text) - 2) if "\ufffd" not in text[i : i + 2])
        [stopped] = generate(
            engine, prefix, max_tokens=16, greedy_first=True, stop=Stop(strings=("no such text", string))
        )
        assert stopped.finish == "stop" and stopped.tokens == free.tokens[: len(stopped.tokens)]
        assert string in tokenizer.decode(list(stopped.tokens))
        assert string not in tokenizer.decode(list(stopped.tokens[:-1]))

    def test_a_stop_string_in_the_prefix_or_across_its_end_stops_nothing(self, engine, tokenizer):
        prefix = tuple(tokenizer.encode("Human: Human: Hum"))
        [answer] = generate(engine, prefix, max_tokens=5, seed=1, stop=Stop(strings=("Human:",)))
        assert (len(answer.tokens), answer.finish) == (5, "length")

    def test_the_end_of_sequence_stops_nothing_unless_it_is_listed(self, subject, engine, tokenizer, prefix):
        end = tokenizer.eos_token_id
        assert end in engine.eos
        params = {"max_tokens": 30, "temperature": subject.hottest}
        for seed in range(200):
            [answer] = generate(engine, prefix, seed=seed, **params)
            assert (len(answer.tokens), answer.finish) == (30, "length")
            if end in answer.tokens[:-1]:
                break
        else:
            pytest.fail("no continuation had the end of sequence")
        [stopped] = generate(engine, prefix, seed=seed, stop=Stop(frozenset({end})), **params)
        assert (stopped.tokens, stopped.finish) == (answer.tokens[: answer.tokens.index(end) + 1], "stop")

    def test_without_logprobs_the_tokens_are_the_same(self, engine, prefix):
        options = {"n": 3, "max_tokens": 6, "top_k": 15, "greedy_first": True, "seed": 7}
        answers = generate(engine, prefix, **options, logprobs=False)
        assert tokens_of(answers) == tokens_of(generate(engine, prefix, **options))
        assert all(len(answer.logprobs) in (0, len(answer.tokens)) for answer in answers)

    def test_next_logprobs_are_normalised_and_those_of_the_most_likely_and_of_the_named_ids(
        self, subject, engine, tokenizer, prefix
    ):
        everything = next_logprobs(engine, prefix, ids=range(len(tokenizer)))
        assert everything.keys() == set(range(len(tokenizer)))
        assert sum(map(math.exp, everything.values())) == pytest.approx(1.0, abs=1e-4)
        ranked = sorted(everything, key=lambda token: -everything[token])
        best = next_logprobs(engine, prefix, top=12)
        assert best == {token: pytest.approx(everything[token], abs=subject.tolerance) for token in ranked[:12]}
        named = (ranked[-1], ranked[0], ranked[100])
        assert next_logprobs(engine, prefix, top=2, ids=named).keys() == {*ranked[:2], *named}
        assert next_logprobs(engine, prefix, ids=named[:1]).keys() == {named[0]}
        more = next_logprobs(engine, prefix, top=40)
        assert more.keys() == set(ranked[:40]), "more than any search asks for by default"

    async def test_next_logprobs_do_not_depend_on_what_was_asked_before(self, subject, engine, prefix):
        fresh = await engine.session("fresh").next_logprobs(prefix, top=5)
        session = engine.session("another")
        await session.generate(prefix, SamplingParams(n=3, max_tokens=6, top_k=3, seed=2))
        again = await session.next_logprobs(prefix, top=5)
        assert fresh.keys() == again.keys()
        assert list(fresh.values()) == pytest.approx([again[token] for token in fresh], abs=subject.tolerance)

    async def test_a_commit_and_a_cached_prefix_change_no_answer(self, subject, engine, prefix):
        longer = (*prefix, *prefix)
        drawing = SamplingParams(n=2, max_tokens=4, top_k=15, seed=5)

        async def answers(announce):
            if announce:
                await engine.cache_prefix(prefix[:4])
            session = engine.session("s")
            if announce:
                await session.generate(prefix, drawing)
                session.commit(longer[:-3])
                session.commit(longer[:-2])
            drawn = await session.generate(longer, drawing)
            known = await session.next_logprobs(longer[:-2], top=3)
            elsewhere = await session.next_logprobs(prefix[:3], top=3)
            await session.close()
            return drawn, known, elsewhere

        plain, announced = await answers(False), await answers(True)
        assert tokens_of(plain[0]) == tokens_of(announced[0])
        for one, other in zip(plain[1:], announced[1:], strict=True):
            assert one.keys() == other.keys()
            assert list(one.values()) == pytest.approx([other[token] for token in one], abs=subject.tolerance)

    async def test_usage_grows_with_every_request_and_each_session_counts_its_own(self, engine, prefix):
        session, other = engine.session("a"), engine.session("b")
        assert set(session.usage.as_dict().values()) == {0}
        await session.generate(prefix, SamplingParams(n=2, max_tokens=3, top_k=15))
        once = session.usage.as_dict()
        assert once["requests"] == 1 and once["forward_passes"] >= 1 and once["tokens_computed"] >= 1
        await session.next_logprobs((*prefix, *prefix), top=1)
        twice = session.usage.as_dict()
        assert twice["requests"] == 2 and twice["forward_passes"] > once["forward_passes"]
        assert twice["tokens_computed"] > once["tokens_computed"]
        assert set(other.usage.as_dict().values()) == {0}

    def test_an_empty_prefix_is_an_error_that_leaves_the_engine_usable(self, engine, prefix):
        with pytest.raises(RainError, match="prefix"):
            generate(engine, (), max_tokens=1)
        with pytest.raises(RainError, match="prefix"):
            next_logprobs(engine, (), top=1)
        assert len(generate(engine, prefix, max_tokens=2)[0].tokens) == 2

    def test_what_is_longer_than_the_context_is_an_error(self, subject, engine, prefix):
        whole = (prefix * subject.context)[: subject.context]
        with pytest.raises(RainError, match="context"):
            next_logprobs(engine, (*whole, prefix[0]), top=1)
        with pytest.raises(RainError, match="context"):
            generate(engine, whole[:-2], max_tokens=4)
