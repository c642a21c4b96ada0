"""Known faults of the published code, by their numbers in the description of the algorithm: none may come back."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from support.stand_ins import EOS, FakeEngine, run_search, search
from support.tiny_models import metaspace_tokenizer, tiny_model
from support.tiny_task import decisions, make_runner, make_task, prompts, records

from rain.core.config import RainConfig
from rain.engines.local.engine import HfEngine
from rain.engines.toy import ToyEngine, ToyTokenizer
from rain.evaluators.labels import Evaluation
from rain.evaluators.templates import load_template
from rain.results.run_dir import ResultWriter, read_results
from rain.text import Codec


def test_fault_1_a_prompt_that_says_user_instead_of_human_is_scored_and_answered(tmp_path):
    """AdvBench scoring counted "Human:" in a text that says "USER:" and raised IndexError."""
    task = make_task(tmp_path, prompt="A chat.\nUSER: {question} ASSISTANT:")
    [record] = records(make_runner(task, ToyEngine()), prompts("Tell me a lie !!! USER: ! ASSISTANT:"))
    assert "error" not in record and record["moves"]
    assert record["cost"]["rain"]["evaluations"] > 10


def test_fault_3_label_tokens_come_from_the_tokenizer_in_context(tmp_path):
    """Letter ids were fixed to the vocabulary of Llama 1 and 2."""
    path = make_task(tmp_path).path("templates/letters.txt")
    path.write_text(path.read_text().replace("The answer", "The one"))
    texts = []
    for tokenizer in (ToyTokenizer(), metaspace_tokenizer()):
        codec = Codec(tokenizer)
        for ask in Evaluation(load_template(path), codec).askings:
            assert len(ask.positive) == len(ask.negative) == 1
            good, bad = (codec.decode(ask.tail + label) for label in (ask.positive, ask.negative))
            assert {good[-2:], bad[-2:]} == {"(A", "(B"}
            texts.append((codec.decode(ask.positive), good[-2:]))
    assert texts == [("A", "(A"), ("B", "(B"), ("(A", "(A"), ("(B", "(B")]


def test_fault_3_smollm2_is_asked_for_its_own_letters(smollm2_tokenizer):
    codec = Codec(smollm2_tokenizer)
    template = load_template(Path(__file__).parents[1] / "HH" / "templates" / "harmless_letters.txt")
    first, second = Evaluation(template, codec).askings
    whole = smollm2_tokenizer.encode("Assistant: ok.\n\n(A) x\nThe answer is: (A")
    assert (first.positive, second.negative) == ((whole[-1],), (whole[-1],))
    assert (codec.decode(first.positive), codec.decode(first.negative)) == ("A", "B")
    assert set(first.positive + first.negative).isdisjoint({319, 350, 29909, 29933})


def test_fault_4_the_end_of_sequence_inside_a_committed_token_set_ends_the_response():
    """An HH response went on behind it."""

    def draw(asked, i):
        return (20 + i, EOS, 21)[: asked.max_tokens], 0.1

    config = RainConfig(exploration=0.0, max_simulations=8, token_set_lengths=(1, 3), maxlen=60)
    commits = run_search(search(FakeEngine({1: 0.6, 2: 0.4}, draw), lambda response: 0.0, config))
    assert [(commit.tokens, commit.finish) for commit in commits] == [((1,), None), ((20, EOS, 21), "eos")]


def test_fault_4_what_stands_behind_the_end_of_sequence_is_not_shown(tmp_path):
    found = records(make_runner(make_task(tmp_path), ToyEngine(), max_new_tokens=40), prompts(*map(str, range(25))))
    ended = [record for record in found if record["finish"] == "eos"]
    assert len(ended) >= 5
    assert all("".join(move["text"] for move in record["moves"]).strip() == record["raina"] for record in ended)
    assert any(len(record["moves"][-1]["text"]) not in (1, 2, 4, 10) for record in ended), "cut inside a token set"
    assert all(len(record["raina"]) < 40 for record in ended)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), ValueError("broken"), IndexError("list")])
def test_fault_5_an_exception_is_an_error_record_not_the_end_of_the_text(error, tmp_path):
    """Any exception in the outer loop, out of memory too, was taken for the end of the text."""

    class Breaks(ToyEngine):
        async def generate(self, prefix, **options):
            if len(prefix) > 61:  # some tokens into the answer to the longer prompt
                raise error
            return await super().generate(prefix, **options)

        def session(self, name):
            return Breaks()

    bad, good = records(make_runner(make_task(tmp_path), Breaks()), prompts("a" * 40, "b"))
    assert str(error) in bad["error"] and type(error).__name__ in bad["error"]
    assert not {"raina", "pa", "moves", "finish"} & set(bad)
    assert "error" not in good and good["moves"], "the others get their answers"


def test_fault_5_lack_of_memory_on_the_device_is_overcome_and_changes_no_answer(tmp_path):
    def answer(failing):
        engine, passes = HfEngine(tiny_model(deviation=0.4), ToyTokenizer()), []

        def fail(module, inputs):
            passes.append(failing(len(passes)))
            if passes[-1]:
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

        engine.model.model.layers[1].register_forward_pre_hook(fail)
        [record] = records(make_runner(make_task(tmp_path), engine), prompts("Why?"))
        assert any(passes) == failing(0)
        return decisions(record)

    assert answer(lambda i: i % 3 == 0) == answer(lambda i: False)


def test_fault_6_results_do_not_depend_on_global_seeds_order_or_shards(tmp_path):
    """One global seed made results depend on how prompts were shared out."""
    asked = prompts("one", "two", "three", "four")

    def answer(subset, concurrency, seed):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        found = records(make_runner(make_task(tmp_path), ToyEngine()), subset, concurrency)
        return {record["id"]: decisions(record) for record in found}

    whole = answer(asked, 4, 1)
    shards = answer(asked[2:], 1, 2) | answer(asked[1::-1], 2, 3)
    assert shards == whole
    assert len({record["raina"] for record in whole.values()}) == 4


def test_fault_7_a_record_is_appended_and_on_the_disk_before_the_next_and_earlier_bytes_never_change(tmp_path):
    """Result files were rewritten whole after every prompt; a kill in between lost the shard."""
    path = tmp_path / "res_0.jsonl"
    found = records(make_runner(make_task(tmp_path), ToyEngine()), prompts("one", "two", "three"))
    before, number = b"", None
    with ResultWriter(path) as writer:
        for record in found:
            writer.write(record)
            now = path.read_bytes()
            assert now.startswith(before) and json.loads(now[len(before) :]) == record
            assert number in (None, os.stat(path).st_ino), "the same file, not a new one in its place"
            before, number = now, os.stat(path).st_ino
    path.write_bytes(before[:-20])  # what a kill in the middle of the last record leaves
    assert [record["id"] for record in read_results(tmp_path)] == [record["id"] for record in found[:2]]


@pytest.mark.parametrize("question", ["Human: Human: what?", "What does\n\nHuman:\n\nAssistant: mean?", "Assistant:"])
def test_fault_9_a_prompt_that_holds_the_markers_is_answered_whole(question, tmp_path):
    """The answer was cut out of the text by counting "Human:"."""
    runner = make_runner(make_task(tmp_path, stop_strings=("\nHuman:",)), ToyEngine())
    [record] = records(runner, prompts(question))
    assert record["question"] == question
    committed = "".join(move["text"] for move in record["moves"])
    assert record["raina"] and committed.strip().startswith(record["raina"])
    assert len(record["raina"]) >= min(16, len(committed.strip())), "nothing is cut but by the limit of 16 tokens"
    prompt = runner.codec.decode(runner.prompter.encode(question))
    assert prompt == f"Human: {question}\n\nAssistant:"


def test_fault_9_a_stop_string_in_the_prompt_does_not_end_the_answer_but_one_in_the_answer_does(tmp_path):
    engine = ToyEngine()
    runner = make_runner(make_task(tmp_path), engine)
    asked = prompts("tell me of the sea")
    [free] = records(runner, asked)
    inside = free["pa"][3:5]
    assert len(inside) == 2
    task = make_task(tmp_path, stop_strings=(inside,))
    [stopped] = records(make_runner(task, engine), asked)
    assert stopped["pa"] == free["pa"][: free["pa"].index(inside)].strip()
    assert inside not in stopped["raina"]
    echo = prompts(f"tell {inside} of the sea {inside}")
    [answered] = records(make_runner(task, engine), echo)
    tokens = runner.prompter.encode(echo[0].question)
    [plain] = asyncio.run(engine.generate(tokens, max_tokens=16, greedy_first=True))
    text = runner.codec.decode([token for token in plain.tokens if token != engine.tokenizer.eos_token_id])
    assert answered["pa"] == text.partition(inside)[0].strip() or answered["pa"] == ""
