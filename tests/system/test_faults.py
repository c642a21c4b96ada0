"""Known faults of the published code, by their numbers in the description of the algorithm: none may return."""

from __future__ import annotations

import asyncio
import json
import os
import random

import numpy as np
import pytest
import torch
from support.stand_ins import EOS, FakeSession, run_search, search
from support.tiny_models import failing_passes, metaspace_tokenizer, tiny_model
from support.tiny_task import decisions, make_aligner, make_task, prompts, records

from rain.core.config import RainConfig
from rain.core.errors import UnclearFault
from rain.engines.local.engine import HfEngine
from rain.engines.toy import ToyEngine, ToySession, ToyTokenizer
from rain.evaluators.labels import SelfEvalPrompt
from rain.evaluators.templates import Template
from rain.results.jsonl import ResultWriter
from rain.results.run_dir import iter_results
from rain.text import TokenizerAdapter


def test_fault_1_a_prompt_that_says_user_instead_of_human_is_scored_and_answered(tmp_path):
    """AdvBench scoring counted "Human:" in a text that says "USER:" and raised IndexError."""
    task = make_task(tmp_path, prompt="A chat.\nUSER: {question} ASSISTANT:")
    [record] = records(make_aligner(task, ToyEngine()), prompts("Tell me a lie !!! USER: ! ASSISTANT:"))
    assert record["moves"]
    assert record["cost"]["rain"]["evaluations"] > 10


def test_fault_3_label_tokens_come_from_the_tokenizer_in_context(tmp_path):
    """Letter ids were fixed to the vocabulary of Llama 1 and 2."""
    path = make_task(tmp_path).path("templates/letters.txt")
    path.write_text(path.read_text().replace("The answer", "The one"))
    texts = []
    for tokenizer in (ToyTokenizer(), metaspace_tokenizer()):
        adapter = TokenizerAdapter(tokenizer)
        for ask in SelfEvalPrompt(Template.from_file(path), adapter).label_prompts:
            for label in (ask.positive, ask.negative):
                texts.append((adapter.decode(label), adapter.decode(ask.tail + label)[-2:]))
    letters = [("A", "(A"), ("B", "(B"), ("B", "(B"), ("A", "(A")]
    assert texts == letters + [(whole, whole) for _, whole in letters]


def test_fault_4_an_end_of_sequence_inside_a_token_set_ends_the_response():
    """An HH response continued after it."""

    def draw(asked, i):
        return (20 + i, EOS, 21)[: asked.max_tokens], 0.1

    config = RainConfig(exploration=0.0, max_simulations=8, token_set_lengths=(1, 3), maxlen=60)
    commits = run_search(search(FakeSession({1: 0.6, 2: 0.4}, draw), lambda response: 0.0, config))
    assert [(commit.tokens, commit.finish) for commit in commits] == [((1,), None), ((20, EOS, 21), "eos")]


ERRORS = [torch.OutOfMemoryError("no memory"), ValueError("broken"), IndexError("list"), UnclearFault("not a number")]


@pytest.mark.parametrize("error", ERRORS)
def test_fault_5_an_exception_is_passed_on_and_is_not_the_end_of_the_text(error, tmp_path):
    """Any exception in the outer loop, out of memory too, was taken for the end of the text."""

    class Breaks(ToySession):
        async def generate(self, prefix, params):
            if len(prefix) > 61:  # some tokens into the answer to the longer prompt
                raise error
            return await super().generate(prefix, params)

    engine = ToyEngine()
    engine.session = lambda name: Breaks(engine)
    aligner = make_aligner(make_task(tmp_path), engine)

    async def both():
        return await asyncio.gather(*map(aligner.record, prompts("a" * 40, "b")), return_exceptions=True)

    bad, good = asyncio.run(both())
    assert bad is error
    assert good["moves"], "the others get their answers"


def test_fault_5_lack_of_memory_on_the_device_is_overcome_and_changes_no_answer(tmp_path):
    def answer(failing):
        engine = HfEngine(tiny_model(deviation=0.4), ToyTokenizer())
        with failing_passes(engine.model, failing) as passes:
            [record] = records(make_aligner(make_task(tmp_path), engine), prompts("Why?"))
        assert any(passes) == failing(0)
        return decisions(record)

    assert answer(lambda i: i % 3 == 0) == answer(lambda i: False)


def test_fault_6_results_do_not_depend_on_global_seeds_order_or_shards(tmp_path):
    """One global seed made results depend on how prompts were shared out."""
    asked = prompts("one", "three", "four", "five")

    def answer(subset, concurrency, seed):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        found = records(make_aligner(make_task(tmp_path), ToyEngine()), subset, concurrency)
        return {record["id"]: decisions(record) for record in found}

    whole = answer(asked, 4, 1)
    shards = answer(asked[2:], 1, 2) | answer(asked[1::-1], 2, 3)
    assert shards == whole
    assert len({record["raina"] for record in whole.values()}) == 4


def test_fault_7_a_record_is_appended_and_earlier_bytes_never_change(tmp_path):
    """Result files were rewritten whole after every prompt; a kill in between lost the shard."""
    path, before = tmp_path / "res_0.jsonl", b""
    with ResultWriter(path) as writer:
        number = os.stat(path).st_ino
        for record in ({"id": "one"}, {"id": "two"}, {"id": "three"}):
            writer.write(record)
            now = path.read_bytes()
            assert now.startswith(before)
            assert json.loads(now[len(before) :]) == record
            before = now
        assert os.stat(path).st_ino == number, "the same file, not a new one in its place"
    path.write_bytes(before[:-5])  # what a kill in the middle of the last record leaves
    assert [record["id"] for record in iter_results(tmp_path)] == ["one", "two"]


@pytest.mark.parametrize("question", ["Human: Human: what?", "What does\n\nHuman:\n\nAssistant: mean?", "Assistant:"])
def test_fault_9_a_prompt_that_contains_the_markers_is_answered_whole(question, tmp_path):
    """The answer was cut out of the text by counting "Human:"."""
    aligner = make_aligner(make_task(tmp_path, stop_strings=("\nHuman:",)), ToyEngine())
    [record] = records(aligner, prompts(question))
    committed = "".join(move["text"] for move in record["moves"]).strip()
    assert record["raina"] == committed[: len(record["raina"])] != ""
    assert len(record["raina"]) >= min(16, len(committed)), "nothing is cut but by the limit of 16 tokens"
    assert record["question"] == question
    assert aligner.adapter.decode(aligner.formatter.encode(question)) == f"Human: {question}\n\nAssistant:"


def test_fault_9_a_stop_string_ends_the_answer_where_the_answer_says_it_not_the_prompt(tmp_path):
    def answered(question, *stop_strings):
        task = make_task(tmp_path, stop_strings=stop_strings)
        return records(make_aligner(task, ToyEngine()), prompts(question))[0]

    free = answered("tell me of the sea")["pa"]
    inside = free[3:5]
    stopped = answered("tell me of the sea", inside)
    assert stopped["pa"] == free[: free.index(inside)].strip()
    assert inside not in stopped["raina"]
    echo = f"tell {inside} of the sea {inside}"
    assert answered(echo, inside)["pa"] == answered(echo)["pa"].partition(inside)[0].strip() != ""
