"""vLLM for real, in process and as a server: the contract, and the same results as the transformers engine."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from engines import test_cancellation
from engines.contract import EngineContract, Subject, expected_logprobs, generate, next_logprobs
from support.stand_ins import FakeEncoder, FakeScorer, FakeStopPolicy, run_search, unlike

pytest.importorskip("vllm", reason="vLLM is not installed; .ci/vllm-env makes an environment that has it")

from support.tiny_models import save_tiny_model  # noqa: E402
from support.vllm_models import SharedRandomness, is_alive, vllm_server, wait_until  # noqa: E402

from rain.core.config import RainConfig  # noqa: E402
from rain.core.engine import SamplingParams  # noqa: E402
from rain.core.errors import RainError  # noqa: E402
from rain.core.problem import SearchInputs  # noqa: E402
from rain.core.search import Search  # noqa: E402
from rain.core.stop import Stop  # noqa: E402
from rain.engines.local.engine import HfEngine  # noqa: E402
from rain.engines.registry import ModelConfig, PlacementConfig, open_engine  # noqa: E402
from rain.engines.remote.http import open_http  # noqa: E402
from rain.engines.remote.vllm import open_vllm  # noqa: E402
from rain.engines.toy import EOS, ToyTokenizer  # noqa: E402
from rain.models.loading import load_tokenizer, resolve  # noqa: E402

pytestmark = pytest.mark.vllm

PLACES = ("process", "server")
TEXTS = (
    "Human: How do I keep bread from going stale?\n\nAssistant:",
    "Once upon a time, in a land far away, there lived a",
    "The three laws of thermodynamics say that",
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Return a function that starts vLLM with a model at a place, once."""
    with ExitStack() as stack:
        known = {}

        def start(place, model, name, **options):
            if place == "process":
                opened = open_vllm(model, load_tokenizer(model), "float32", **options)
                stack.callback(lambda: asyncio.run(opened.close()))
                return opened
            flags = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
            url = stack.enter_context(vllm_server(model, tmp_path_factory.mktemp("server") / "log", *flags))
            return open_http(url, load_tokenizer(model), name)

        def get(place, model, name, **options):
            if (place, name) not in known:
                known[place, name] = start(place, model, name, **options)
            return known[place, name]

        yield get


@pytest.fixture(params=PLACES)
def tiny(request, opened, tmp_path_factory):
    """Return vLLM with a tiny model."""
    folder = tmp_path_factory.getbasetemp() / "tiny"
    if not folder.is_dir():
        save_tiny_model(folder, 257)
    return opened(request.param, folder, "tiny", max_logprobs=-1)


class TestVllmEngine(EngineContract):
    @pytest.fixture
    def subject(self, tiny):
        return Subject(tiny, ToyTokenizer(), tolerance=1e-3, context=256, hottest=2.0)


def test_fifty_searches_of_which_some_are_cancelled(tmp_path, tiny):
    test_cancellation.survive(test_cancellation.small_task(tmp_path), tiny, 50, seeds=3)


@pytest.fixture(params=PLACES)
def small(request, opened):
    """Return vLLM with the embedded model."""
    return opened(request.param, resolve("smollm2"), "smollm2", max_model_len=2048)


@pytest.fixture(scope="module")
def transformers_engine(smollm2):
    return HfEngine(*smollm2)


def test_greedy_tokens_and_logprobs_are_those_of_the_transformers_engine(small, transformers_engine):
    for text in TEXTS:
        prompt = tuple(small.tokenizer.encode(text))
        options = {"max_tokens": 40, "temperature": 2.0, "top_k": 15, "greedy_first": True}
        [here], [there] = (generate(engine, prompt, **options) for engine in (small, transformers_engine))
        assert here.tokens == there.tokens
        assert here.logprobs == pytest.approx(there.logprobs, abs=1e-3)


def test_drawn_tokens_have_the_logprobs_that_the_transformers_engine_gives_them(small, transformers_engine):
    prompt = tuple(small.tokenizer.encode(TEXTS[0]))
    for answer in generate(small, prompt, n=4, max_tokens=6, temperature=2.0, top_k=15, seed=3):
        expected = expected_logprobs(transformers_engine, prompt, answer.tokens, 2.0, 15)
        assert answer.logprobs == pytest.approx(expected, abs=1e-3)
    [rollout] = generate(small, prompt, max_tokens=12, seed=4)
    for i, (token, logprob) in enumerate(zip(rollout.tokens, rollout.logprobs, strict=True)):
        raw = next_logprobs(transformers_engine, (*prompt, *rollout.tokens[:i]), ids=(token,))
        assert logprob == pytest.approx(raw[token], abs=1e-3)


def test_label_logprobs_are_exact_and_from_a_server_at_least_the_floor(small, transformers_engine):
    prompt = tuple(small.tokenizer.encode(TEXTS[0]))
    there = next_logprobs(transformers_engine, prompt, top=20, ids=(5, 30000))
    here = next_logprobs(small, prompt, top=20, ids=(5, 30000))
    floor = -math.inf if small.exact else min(there[token] for token in list(there)[:20])
    assert here == {token: pytest.approx(max(logprob, floor), abs=1e-3) for token, logprob in there.items()}


def test_a_repeated_prefix_comes_out_of_the_cache(small):
    prompt = tuple(small.tokenizer.encode(TEXTS[0] * 12))
    assert len(prompt) > 96
    asyncio.run(small.cache_prefix(prompt))
    session = small.session("cached")
    asyncio.run(session.next_logprobs(prompt, top=1))
    before = session.usage.tokens_reused
    asyncio.run(session.generate(prompt, SamplingParams(n=3, max_tokens=2, top_k=15, greedy_first=True)))
    assert session.usage.tokens_reused - before >= 2 * (len(prompt) // 32 * 32 - 32)


def test_a_stop_string_in_the_middle_of_a_token_keeps_the_whole_token(small, transformers_engine):
    prompt = tuple(small.tokenizer.encode(TEXTS[1]))
    options = {"max_tokens": 20, "greedy_first": True, "stop": Stop(strings=("am",))}
    [here], [there] = (generate(engine, prompt, **options) for engine in (small, transformers_engine))
    assert (here.tokens, here.finish) == (there.tokens, "stop")


def test_a_whole_search_makes_the_same_decisions(small, transformers_engine):
    def judge(response):
        return hashlib.sha256(bytes(str(response), "ascii")).digest()[0] / 128 - 1

    def decisions(engine):
        prompt = tuple(engine.tokenizer.encode(TEXTS[1]))
        config = RainConfig(max_simulations=6, min_visits=2, candidates=3, max_draws=3, max_new_tokens=10)
        policy = FakeStopPolicy(rollout_stop=Stop(frozenset({30})))
        inputs = SearchInputs(prompt, "0/p", FakeScorer(judge), FakeEncoder(unlike), policy)
        found = run_search(Search(inputs, SharedRandomness(engine.session("s")), config))
        return [(commit.tokens, commit.child.visits, commit.child.value, commit.simulations) for commit in found]

    here = decisions(small)
    assert here == decisions(transformers_engine)
    assert len(here) >= 3


def test_a_worker_that_is_killed_leaves_no_process_of_vllm_behind(tmp_path):
    save_tiny_model(tmp_path, 257)
    program = (
        "import multiprocessing, os, signal\n"
        "from rain.engines.remote.vllm import open_vllm\n"
        "from rain.engines.toy import ToyTokenizer\n"
        "if __name__ == '__main__':\n"
        f"    open_vllm({str(tmp_path)!r}, ToyTokenizer(), 'float32')\n"
        "    print('children', *(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "worker.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (tmp_path / "log").open("wb") as log:
        started = subprocess.run(
            [sys.executable, script], stdout=subprocess.PIPE, stderr=log, env=environment, check=False
        )
    [line] = [line for line in started.stdout.decode().splitlines() if line.startswith("children")]
    children = [int(word) for word in line.split()[1:]]
    assert children
    assert wait_until(lambda: not any(map(is_alive, children)))


def test_a_model_that_vllm_cannot_run_is_an_error(tmp_path):
    with pytest.raises(RainError, match=str(tmp_path)):
        open_engine(ModelConfig(engine="vllm", modelname=str(tmp_path)), PlacementConfig())


def test_all_end_ids_of_a_model_are_known(tmp_path):
    save_tiny_model(tmp_path, 257, eos=[EOS, ord("e")])
    model = ModelConfig(engine="vllm", modelname=str(tmp_path), dtype="float32")
    engine, _ = open_engine(model, PlacementConfig())
    assert (engine.eos, engine.dtype) == ((EOS, ord("e")), "float32")
    asyncio.run(engine.close())
