"""The caching engine in float32 gives what plain forward passes without any cache give, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import weakref

import pytest
import torch
import transformers
from engines.contract import CONTEXT, EngineContract, Subject
from support.tiny_models import GROUPED, IDS, KINDS, SHAPE, failing_passes, tiny_engine, tiny_model
from support.witness import Witness, computed_tokens, largest_error

from rain.core.engine import SamplingParams
from rain.core.errors import RainError, UnclearFault
from rain.core.stop import Stop
from rain.engines.local.engine import HfEngine
from rain.engines.local.model_runner import CPU_WASTE
from rain.engines.reference import ReferenceEngine
from rain.engines.toy import ToyTokenizer

TEXT = tuple(b"Human: Is the sea salty?\n\nAssistant: Yes, it is. ")


def open_engine(kind="llama", **options):
    return Witness(tiny_engine(kind, **options))


def scheduler(witness):
    return witness.engine.scheduler


def generate(session, prefix, **params):
    return session.generate(prefix, SamplingParams(**params))


class TestHfEngine(EngineContract):
    @pytest.fixture
    def subject(self):
        return Subject(HfEngine(tiny_model(context=CONTEXT), ToyTokenizer()), ToyTokenizer())


async def one_search(engine, name, prompt, seed, commits=3):
    """Request what a search does: likely tokens, candidates, rollouts, evaluations, then commit and continue."""
    session, judge = engine.session(name), engine.session(f"{name}/judge")
    evaluation = TEXT[::-1] + prompt
    for turn in range(commits):
        likely = await session.next_logprobs(prompt, top=4)
        drawn = await generate(session, prompt, n=4, max_tokens=4, top_k=6, greedy_first=True, seed=seed + turn)
        texts = [(token,) for token in likely] + [answer.tokens for answer in drawn]
        rolled = await asyncio.gather(
            *(generate(session, prompt + text, max_tokens=5, seed=seed, stop=Stop(frozenset({7}))) for text in texts)
        )
        judged = [evaluation + text + roll.tokens for text, [roll] in zip(texts, rolled, strict=True)]
        asked = [text + tuple(tail) for text in judged for tail in (b"A", b"BB")]
        await asyncio.gather(*(judge.next_logprobs(text, ids=(3, 200)) for text in asked))
        prompt += drawn[turn].tokens
        evaluation += drawn[turn].tokens
        session.commit(prompt)
        judge.commit(evaluation)
    await session.close()
    await judge.close()


async def several_searches(engine, count=3, prefixes=(TEXT[:20], TEXT[::-1])):
    for prefix in prefixes:
        await engine.cache_prefix(prefix)
    await asyncio.gather(*(one_search(engine, str(i), TEXT + (65 + i % 2,), seed=100 * i) for i in range(count)))


def tokens_drawn(witness):
    """Return all drawn tokens by request; requests are recorded in the order in which they end, so sort them."""
    return sorted(
        (prefix, params.seed, params.n, [answer.tokens for answer in answers])
        for prefix, params, answers in witness.log.drawn
    )


ONE_CALL = [(kind, math.inf) for kind in ("llama", "gemma2", "mistral")]


@pytest.mark.parametrize(("kind", "waste"), [*((kind, CPU_WASTE) for kind in KINDS), *ONE_CALL])
def test_every_answer_of_several_searches_equals_plain_passes_without_a_cache(kind, waste):
    """Also with one call of the attention for all trees, as on a GPU."""
    engine = open_engine(kind)
    scheduler(engine).runner.waste = waste
    asyncio.run(several_searches(engine, count=2))
    assert len(engine.log.known) > 90 and max(len(prefix) for prefix, _ in engine.log.known) > 100
    assert largest_error(engine.log, engine.engine.model) < 1e-4


def test_the_attention_is_none_of_cudnns_and_its_result_can_be_viewed():
    engine, seen = open_engine("llama"), []
    before = torch.backends.cuda.cudnn_sdp_enabled()

    def look(module, inputs):
        seen.append((torch.backends.cuda.cudnn_sdp_enabled(), inputs[0].is_contiguous()))

    engine.engine.model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(look)
    asyncio.run(engine.session("s").next_logprobs(TEXT, top=1))
    assert seen == [(False, True)] and torch.backends.cuda.cudnn_sdp_enabled() == before


async def test_smollm2_with_caches_equals_its_plain_passes(smollm2):
    """Next-token and candidate log-probabilities over commits, two sessions at once and a cached evaluation prompt."""
    model, tokenizer = smollm2
    engine = Witness(HfEngine(model, tokenizer, max_batch_tokens=64))
    prompt = tuple(tokenizer.encode("Human: My sister forgot my birthday.\n\nAssistant: I am sorry"))
    judge = tuple(tokenizer.encode("Is the reply kind? Human: My sister forgot my birthday.\n\nAssistant:"))
    likely = sorted(range(0, 49000, 611))

    async def search(prefix, judged):
        session, judging = engine.session("s"), engine.session("s/judge")
        for length in (1, 3):
            drawn = await generate(session, prefix, n=2, max_tokens=length, top_k=15, greedy_first=True, seed=length)
            [roll] = await generate(session, prefix + drawn[1].tokens, max_tokens=4, seed=9)
            await judging.next_logprobs(judged + drawn[1].tokens + roll.tokens, top=20, ids=likely)
            prefix, judged = prefix + drawn[1].tokens, judged + drawn[1].tokens
            session.commit(prefix)
            judging.commit(judged)

    await engine.cache_prefix(judge)
    await asyncio.gather(search(prompt, judge + prompt[-2:]), search(prompt[:-1], judge + prompt[-1:]))
    assert largest_error(engine.log, model) < 2e-4
    await engine.engine.close()


async def test_every_tree_token_is_computed_once():
    session = open_engine().session("s")
    await generate(session, TEXT, n=6, max_tokens=5, top_k=3, greedy_first=True, seed=1)
    await generate(session, TEXT, n=6, max_tokens=5, top_k=3, seed=1)
    [roll] = await generate(session, TEXT + TEXT[:3], max_tokens=6, seed=2)
    await session.next_logprobs(TEXT + TEXT[:3] + roll.tokens, top=3, ids=(1, 2))
    usage = session.usage
    assert usage.tokens_distinct == usage.tokens_computed == computed_tokens(session.log)
    assert usage.tokens_reused >= len(TEXT) * 3


async def test_a_distribution_that_was_brought_back_is_not_computed_again():
    engine = tiny_engine()
    session = engine.session("s")
    first = await session.next_logprobs(TEXT, top=10)
    passes = session.usage.forward_passes
    assert await session.next_logprobs(TEXT, top=10) == first
    drawn = await generate(session, TEXT, n=3, max_tokens=1, top_k=10, greedy_first=True, seed=4)
    assert session.usage.forward_passes == passes and len(drawn) == 3
    assert engine.stats().passes == 1, "a step in which nothing is computed is none"


async def test_a_cached_prefix_is_computed_once_however_many_ask_for_it():
    engine = open_engine()
    sessions = [engine.session(str(i)) for i in range(3)]
    await asyncio.gather(*(engine.cache_prefix(TEXT) for _ in sessions))
    assert engine.engine.stats().passes == 1
    await asyncio.gather(*(session.next_logprobs(TEXT + (i,), top=1) for i, session in enumerate(sessions)))
    assert [session.usage.tokens_computed for session in sessions] == [1, 1, 1]
    assert largest_error(engine.log, engine.engine.model) < 1e-4


async def test_a_commit_keeps_what_continues_it_and_frees_the_rest():
    engine = open_engine()
    session = engine.session("s")

    async def computed(text):
        before = session.usage.tokens_computed
        await session.next_logprobs(TEXT + tuple(text), ids=(9,))
        return session.usage.tokens_computed - before

    for branch in (b"a", b"b"):
        await generate(session, TEXT + tuple(branch), n=4, max_tokens=3, top_k=9, seed=1)
        await session.next_logprobs(TEXT + tuple(branch + b"xyz"), top=1)
    [tree] = scheduler(engine).trees
    full = len(tree)
    session.commit(TEXT + tuple(b"a"))
    assert len(TEXT) + 1 < len(tree) < full
    assert await computed(b"axyzw") == 1, "the kept branch is still there"
    assert await computed(b"bxyzw") == 5, "the other one is computed anew"
    await session.close()
    assert scheduler(engine).trees == []
    assert largest_error(engine.log, engine.engine.model) < 1e-4


def watch_passes(engine, look):
    """Call a function with the number of query tokens before each pass."""
    runner = scheduler(engine).runner
    forward = runner.forward

    def watched(batch):
        look(len(batch.slots))
        return forward(batch)

    runner.forward = watched


@pytest.fixture(scope="module")
def undisturbed():
    engine = open_engine()
    asyncio.run(several_searches(engine))
    assert engine.engine.stats().evictions == 0
    return tokens_drawn(engine)


@pytest.mark.parametrize("cache_tokens", [1, 150, 400])
def test_eviction_recomputes_and_changes_no_answer(cache_tokens, undisturbed):
    engine = open_engine(cache_tokens=cache_tokens, max_batch_tokens=64)
    asyncio.run(several_searches(engine))
    assert engine.engine.stats().evictions > 3
    assert tokens_drawn(engine) == undisturbed
    assert largest_error(engine.log, engine.engine.model) < 1e-4


def test_an_eviction_that_drops_nothing_is_none():
    engine = tiny_engine(cache_tokens=1)
    asyncio.run(generate(engine.session("s"), TEXT, max_tokens=5))
    assert (engine.stats().passes, engine.stats().evictions) == (5, 0)


def test_eviction_keeps_the_cache_near_its_budget():
    engine, sizes = open_engine(cache_tokens=400, max_batch_tokens=64), []
    watch_passes(engine, lambda tokens: sizes.append(sum(map(len, scheduler(engine).trees))))
    asyncio.run(several_searches(engine))
    assert 200 < max(sizes) <= 400


@pytest.mark.parametrize("limit", [1, 3, 17])
def test_a_pass_never_exceeds_its_limit_and_prefill_in_chunks_changes_no_answer(limit, undisturbed):
    engine, sizes = open_engine(max_batch_tokens=limit), []
    watch_passes(engine, sizes.append)
    asyncio.run(several_searches(engine))
    assert max(sizes) == limit
    assert tokens_drawn(engine) == undisturbed


async def test_a_short_request_is_answered_while_a_long_prompt_is_computed():
    engine, finished = tiny_engine(max_batch_tokens=32), []

    async def ask(name, prefix):
        await generate(engine.session(name), prefix, max_tokens=3, seed=1)
        finished.append(name)

    await asyncio.gather(ask("long", (1, 2, 3, 4) * 100), ask("short", (5, 6, 7)))
    assert finished == ["short", "long"]


CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
OUT_OF_MEMORY = {
    "first": [lambda i: i < 1],
    "first five": [lambda i: i < 5],
    "every other": [lambda i: i % 2 == 0],
    "in the middle": [lambda i: 10 < i < 17],
    "of a library of CUDA": [lambda i: i < 2, CUBLAS],
}


@pytest.mark.parametrize("name", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_pass_and_nothing_fails(name, undisturbed):
    engine = open_engine()
    with failing_passes(engine.engine.model, *OUT_OF_MEMORY[name]) as passes:
        asyncio.run(several_searches(engine))
    assert any(passes) and len(passes) > 20
    assert tokens_drawn(engine) == undisturbed
    assert largest_error(engine.log, engine.engine.model) < 1e-4


def test_a_pass_that_ran_out_of_memory_is_halved_then_grows_again_and_is_not_billed():
    engine, limits = open_engine(max_batch_tokens=64), []
    watch_passes(engine, lambda tokens: limits.append(scheduler(engine).batch_limit))
    session = engine.session("s")
    with failing_passes(engine.engine.model, lambda i: i < 3):
        asyncio.run(generate(session, TEXT * 2, max_tokens=3, top_k=3))
    assert limits[:4] == [64, 32, 16, 8] and limits[-1] == 64
    assert session.usage.tokens_computed == session.usage.tokens_distinct == 2 * len(TEXT) + 2


async def test_memory_that_suffices_for_no_token_is_an_error_and_the_next_request_is_tried_anew():
    engine = open_engine()
    session = engine.session("s")
    broken = failing_passes(engine.engine.model, lambda i: True)
    with broken, pytest.raises(UnclearFault, match="out of memory"):
        await session.next_logprobs(TEXT, top=1)
    await session.next_logprobs(TEXT, top=1)
    assert largest_error(engine.log, engine.engine.model) < 1e-4


async def test_a_pass_that_breaks_fails_those_who_wait_for_it_and_leaves_the_cache_right():
    engine, error = open_engine(), ValueError("a fault of the device")
    session = engine.session("s")
    await session.next_logprobs(TEXT[:9], top=1)
    with failing_passes(engine.engine.model, lambda i: True, error):
        waiting = [session.next_logprobs(TEXT, top=1), generate(session, TEXT, max_tokens=2)]
        assert await asyncio.gather(*waiting, return_exceptions=True) == [error, error]
    await generate(session, TEXT, n=3, max_tokens=4, top_k=5, seed=1)
    assert largest_error(engine.log, engine.engine.model) < 1e-4


async def test_a_pass_that_breaks_fails_no_request_that_was_still_waiting_for_room():
    engine, error = tiny_engine(cache_tokens=len(TEXT) + 9), ValueError("a fault of the pass")
    with failing_passes(engine.model, lambda i: i == 0, error):
        asked = [engine.session(str(i)).next_logprobs((i, *TEXT), top=1) for i in range(2)]
        failed, answered = await asyncio.gather(*asked, return_exceptions=True)
    assert failed is error and len(answered) == 1


async def test_a_request_that_is_given_up_disturbs_no_other():
    engine, started = open_engine(), asyncio.Event()
    session = engine.session("s")
    watch_passes(engine, lambda tokens: started.set())
    lost = asyncio.create_task(generate(session, TEXT, max_tokens=200, top_k=5, seed=3))
    kept = asyncio.create_task(generate(session, TEXT, n=2, max_tokens=30, top_k=5, seed=4))
    await started.wait()
    assert not kept.done()
    lost.cancel()
    await kept
    assert scheduler(engine).requests == []
    assert session.usage.tokens_computed < 200
    assert largest_error(engine.log, engine.engine.model) < 1e-4


async def test_random_requests_commits_and_closings_in_any_order_give_right_answers():
    rng = random.Random(5)
    engine = open_engine("gemma3", cache_tokens=120, max_batch_tokens=23)

    async def life(name):
        session, prefix = engine.session(name), TEXT[: rng.randrange(4, 12)]
        for turn in range(8):
            branches = [prefix + tuple(rng.choices(range(97, 100), k=rng.randrange(0, 6))) for _ in range(3)]
            await asyncio.gather(
                generate(session, branches[0], n=3, max_tokens=rng.randrange(1, 9), top_k=4, seed=turn),
                generate(session, branches[1], max_tokens=rng.randrange(1, 9), temperature=2.0, seed=turn),
                session.next_logprobs(branches[2], top=3, ids=rng.sample(range(257), 5)),
            )
            prefix = rng.choice(branches)
            if rng.random() < 0.7:
                session.commit(prefix)
            if rng.random() < 0.2:
                await session.close()

    await engine.cache_prefix(TEXT[:4])
    await asyncio.gather(*(life(str(i)) for i in range(4)))
    assert engine.engine.stats().evictions and len(engine.log.drawn) == 64
    assert largest_error(engine.log, engine.engine.model) < 1e-4


WRONG_ON_A_TREE = {
    "FalconH1": {**SHAPE, **GROUPED, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_d_ssm": 64},
    "DiffLlama": {**SHAPE, **GROUPED},
    "Llama4Text": {**SHAPE, **GROUPED, "attention_chunk_size": 16, "head_dim": 8, "intermediate_size_mlp": 48},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Phimoe": {**SHAPE, **GROUPED, "num_local_experts": 2, "sliding_window": 40},
}


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float32) for name in WRONG_ON_A_TREE), ("DiffLlama", torch.bfloat16)]
)
def test_a_model_that_would_answer_wrongly_is_refused_at_start_up_and_left_as_it_was(name, dtype):
    """State spaces, attention of its own, chunks, biases, masked windows: what the tree cache would silently change."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**IDS, **WRONG_ON_A_TREE[name])
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.25)
    before, layers = plain_answer(model), [type(module) for module in model.modules()]
    with pytest.raises(RainError, match="--engine reference"):
        HfEngine(model, ToyTokenizer())
    assert [type(module) for module in model.modules()] == layers, "attention and linear layers are its own again"
    assert torch.equal(plain_answer(model), before)
    if dtype is torch.float32:
        known = asyncio.run(ReferenceEngine(model, ToyTokenizer()).session("s").next_logprobs(TEXT, ids=range(257)))
        assert [known[token] for token in range(257)] == pytest.approx(before.tolist(), abs=1e-4)


def plain_answer(model):
    with torch.inference_mode():
        return model(torch.tensor([TEXT]), use_cache=False).logits[0, -1].log_softmax(dim=-1)


def test_a_model_can_be_opened_again_and_the_last_engine_on_it_answers_right():
    first = open_engine()
    asyncio.run(several_searches(first, count=1))
    second = Witness(HfEngine(first.engine.model, ToyTokenizer()))
    asyncio.run(several_searches(second, count=1))
    assert tokens_drawn(first) == tokens_drawn(second)
    assert largest_error(second.log, second.engine.model) < 1e-4


def test_a_model_is_freed_with_its_engine():
    engine = tiny_engine()
    asyncio.run(generate(engine.session("s"), (1, 2, 3), max_tokens=2))
    known = weakref.ref(engine.model)
    del engine
    gc.collect()
    assert known() is None
