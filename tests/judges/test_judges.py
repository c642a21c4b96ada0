"""Judges: prompts and strict reading, the OpenAI judge under faults, local formats, keyword lists, the score file."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.judge_server import asked, judge_server, record, write_run

from rain.core.errors import RainError
from rain.judges import JudgeSettings, Query, Summary, load_run, open_judge, queries_for, read_scores, score_run
from rain.judges.base import file_name
from rain.judges.command import add_arguments, describe, run
from rain.judges.hf_judge import HFJudge
from rain.judges.keywords import LISTS, check_list, read_labelled
from rain.judges.openai_judge import is_loopback
from rain.judges.prompts import PROMPTS, messages, read_word


def settings(url: str, **more: Any) -> JudgeSettings:
    usual = {"judge_backoff": 0.001, "judge_concurrency": 1, "judge_timeout": 5.0}
    return JudgeSettings(**{"judge_base_url": url, **usual, **more})


def score(outdir: Path, name: str, how: JudgeSettings, **more: Any) -> Summary:
    async def go() -> Summary:
        judge = open_judge(name, how)
        try:
            return await score_run(load_run(outdir), judge, **more)
        finally:
            await judge.close()

    return asyncio.run(go())


def stored(outdir: Path, judge: str = "openai:m") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (outdir / file_name(judge)).read_text().splitlines()]


# --- prompts and replies


@pytest.mark.parametrize("reply", [" Harmless.\n", '"HARMLESS"', "**harmless**", "<think>a</think> harmless"])
def test_a_single_word_is_read_whatever_its_dress(reply: str) -> None:
    assert read_word(reply, PROMPTS["harmless"].words) is True


@pytest.mark.parametrize("reply", ["", "The answer is harmless.", "harmless or harmful", "safe", "harmless harmless"])
def test_anything_but_the_single_word_is_no_verdict(reply: str) -> None:
    assert read_word(reply, PROMPTS["harmless"].words) is None


def test_slots_inside_an_answer_stay_as_they_are() -> None:
    text = messages(Query("r", "pa", "harmless", "Say {response}", "No: {question} {other}"))[1]["content"]
    assert "<question>\nSay {response}\n</question>" in text
    assert "<answer>\nNo: {question} {other}\n</answer>" in text


def test_every_prompt_names_exactly_the_words_that_it_accepts() -> None:
    assert set(PROMPTS) == {"harmless", "helpful", "pairwise", "attack", "true", "info", "sentiment"}
    for prompt in PROMPTS.values():
        last = prompt.text.rsplit("One word: ", 1)[1].rstrip(".")
        assert set(last.replace(" or ", ", ").split(", ")) == set(prompt.words)
    assert len({prompt.version for prompt in PROMPTS.values()}) == len(PROMPTS)


def test_each_task_asks_what_the_paper_scores() -> None:
    plain = record(1, "R", "P")
    assert [(q.ask, q.answer) for q in queries_for("hh", plain)] == [
        ("harmless", "raina"),
        ("harmless", "pa"),
        ("helpful", "raina"),
        ("helpful", "pa"),
        ("pairwise", "raina,pa"),
        ("pairwise", "pa,raina"),
    ]
    swapped = queries_for("hh", plain)[-1]
    assert (swapped.response, swapped.other) == ("P", "R")
    attacked = queries_for("adv", {**plain, "question": "Do it !!x", "goal": "Do it", "controls": "!!x"})
    assert {q.question for q in attacked} == {"Do it"}
    truth = queries_for("truth", {**plain, "correct_answers": ["yes"], "incorrect_answers": ["no", "never"]})
    assert [(q.ask, q.right, q.wrong) for q in truth[::2]] == [("true", ("yes",), ("no", "never")), ("info", (), ())]
    review = queries_for("imdb", record(1, "was fun", " was dull", question="The film"))
    assert [q.question + q.response for q in review] == ["The film was fun", "The film was dull"]


def test_a_run_without_plain_answers_asks_about_rain_alone() -> None:
    only = {"id": "r1", "question": "q", "raina": "R"}
    assert {(q.ask, q.answer) for q in queries_for("hh", only)} == {("harmless", "raina"), ("helpful", "raina")}


def test_the_hash_changes_with_everything_that_the_judge_is_shown() -> None:
    base = {"record": "r", "answer": "pa", "ask": "true", "question": "q", "response": "a"}
    shown = [{}, {"question": "Q"}, {"response": "b"}, {"other": "c"}, {"right": ("x",)}, {"wrong": ("x",)}]
    assert len({Query(**{**base, **change}).digest for change in shown}) == len(shown)


# --- the score file


def test_verdicts_are_kept_and_never_asked_again(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " was fun", " was dull", question="It")])
    with judge_server(lambda request: "positive" if "fun" in asked(request) else "negative") as server:
        first = score(outdir, "openai:m", settings(server.url))
        second = score(outdir, "openai:m", settings(server.url))
        assert (first.asked, first.cached, first.calls) == (2, 0, 2)
        assert (second.asked, second.cached, second.calls) == (0, 2, 0)
        assert len(server.requests) == 2
    assert [(line["answer"], line["verdict"], line["version"]) for line in stored(outdir)] == [
        ("raina", True, "sentiment-1"),
        ("pa", False, "sentiment-1"),
    ]


def test_requests_are_deterministic_and_short(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    with judge_server() as server:
        score(outdir, "openai:m", settings(server.url, judge_max_tokens=9))
    assert {(r["model"], r["temperature"], r["max_tokens"]) for r in server.requests} == {("m", 0.0, 9)}


def test_a_changed_answer_is_asked_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    with judge_server() as server:
        score(outdir, "openai:m", settings(server.url))
        write_run(tmp_path, "imdb", [record(1, " changed", " b")])
        assert score(outdir, "openai:m", settings(server.url)).asked == 1
        assert "changed" in asked(server.requests[-1])


def test_unreadable_replies_are_null_counted_and_asked_again_only_on_request(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    with judge_server(lambda request: "I think it is positive") as server:
        first = score(outdir, "openai:m", settings(server.url))
    assert first.nulls["sentiment"] == 2
    assert "2 of sentiment" in describe(first)
    assert [(line["verdict"], line["reply"]) for line in stored(outdir)] == [(None, "I think it is positive")] * 2
    with judge_server(lambda request: "positive") as server:
        assert score(outdir, "openai:m", settings(server.url)).calls == 0
        assert score(outdir, "openai:m", settings(server.url), again=True).asked == 2
    assert set(read_scores(outdir / file_name("openai:m"), "openai:m").values()) == {True}


def test_a_torn_score_line_is_dropped_and_its_query_asked_again(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    with judge_server(lambda request: "positive") as server:
        score(outdir, "openai:m", settings(server.url))
        path = outdir / file_name("openai:m")
        path.write_bytes(path.read_bytes()[:-20])
        assert score(outdir, "openai:m", settings(server.url)).asked == 1
    assert [line["answer"] for line in stored(outdir)] == ["raina", "pa"]


def test_torn_results_are_counted_and_left_out_and_failed_prompts_are_not_judged(tmp_path: Path) -> None:
    failed = {"id": "r2", "question": "q", "error": "out of memory"}
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b"), failed], tail='{"id": "r3", "rai')
    found = load_run(outdir)
    assert (len(found.records), len(found.errors), found.torn) == (1, 1, 1)


def test_file_names_are_safe_and_verdicts_of_judges_that_share_one_stay_apart(tmp_path: Path) -> None:
    assert file_name("hf:org/Model-1.5 x") == "scores_hf_org_Model-1.5_x.jsonl"
    assert file_name("openai:a/b") == file_name("openai:a_b")
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    with judge_server(lambda request: "positive") as server:
        score(outdir, "openai:a/b", settings(server.url))
        assert score(outdir, "openai:a_b", settings(server.url)).asked == 2


# --- the OpenAI judge under faults


@pytest.mark.parametrize("fault", [429, 500, 503, 408, "cut", "html", "empty"])
def test_a_passing_fault_is_tried_again_and_counted(tmp_path: Path, fault: Any) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    with judge_server(lambda request: "positive", [fault, fault]) as server:
        summary = score(outdir, "openai:m", settings(server.url))
    assert (summary.asked, summary.failed, summary.calls, summary.retries) == (2, 0, 4, 2)


def test_a_slow_reply_times_out_and_is_tried_again(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    with judge_server(lambda request: "positive", ["slow"]) as server:
        summary = score(outdir, "openai:m", settings(server.url, judge_timeout=0.3))
    assert (summary.asked, summary.retries) == (2, 1)


def test_retries_are_bounded_and_the_query_stays_open(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    with judge_server(lambda request: "positive", [500, 500, 500]) as server:
        summary = score(outdir, "openai:m", settings(server.url, judge_retries=2))
        assert (summary.asked, summary.failed, summary.calls) == (1, 1, 4)
        assert "HTTP 500 (3 tries)" in describe(summary)
        assert [line["answer"] for line in stored(outdir)] == ["pa"]
        assert score(outdir, "openai:m", settings(server.url)).asked == 1


def test_a_judge_that_never_answers_is_given_up_soon(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(i, " a", " b") for i in range(20)])
    with judge_server(script=[500] * 100) as server:
        with pytest.raises(RainError, match="no reply to 5 queries in a row"):
            score(outdir, "openai:m", settings(server.url, judge_retries=1))
        assert len(server.requests) == 10


def test_nobody_listening_is_said_in_one_sentence(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(i, " a", " b") for i in range(4)])
    with judge_server() as server:
        url = server.url
    with pytest.raises(RainError, match="connection failed"):
        score(outdir, "openai:m", settings(url, judge_retries=0))


def test_a_query_that_the_server_declines_is_skipped_without_retries(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(i, " a", " b") for i in range(4)])
    with judge_server(lambda request: "positive", [None, *[400] * 7]) as server:
        summary = score(outdir, "openai:m", settings(server.url))
    assert (summary.asked, summary.failed, summary.retries) == (1, 7, 0)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (401, "OPENAI_API_KEY"),
        (404, "--judge-base-url"),
        ((429, {"error": {"message": "pay", "code": "insufficient_quota"}}), "quota"),
    ],
)
def test_a_lasting_fault_stops_at_once(tmp_path: Path, fault: Any, words: str) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    with judge_server(lambda request: "positive", [None, fault]) as server:
        with pytest.raises(RainError, match=words):
            score(outdir, "openai:m", settings(server.url))
        assert len(server.requests) == 2
    assert len(stored(outdir)) == 1


def test_the_spending_guard_stops_counts_retries_and_keeps_what_was_judged(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(i, " a", " b") for i in range(10)])
    with judge_server(lambda request: "positive", [500]) as server:
        with pytest.raises(RainError, match="--max-calls 7"):
            score(outdir, "openai:m", settings(server.url, max_calls=7, judge_concurrency=3))
        assert len(server.requests) == 7
        assert len(stored(outdir)) == 6
        assert score(outdir, "openai:m", settings(server.url)).asked == 14


def test_requests_run_side_by_side_up_to_the_limit(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(i, " a", " b") for i in range(8)])
    waiting: list[int] = []

    def reply(request: dict[str, Any]) -> str:
        waiting.append(server.in_flight)
        if len(waiting) >= 4:
            gate.set()
        gate.wait(10)
        return "positive"

    with judge_server(reply) as server:
        gate = type(server.over)()
        summary = score(outdir, "openai:m", settings(server.url, judge_concurrency=4))
    assert summary.asked == 16
    assert server.most_in_flight == 4


def test_parameters_that_a_reasoning_model_refuses_are_left_out(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    refusals = [
        (400, {"error": {"message": f"Unsupported parameter: '{name}' is not supported with this model."}})
        for name in ("max_tokens", "temperature")
    ]
    with judge_server(lambda request: "positive", refusals) as server:
        assert score(outdir, "openai:m", settings(server.url)).asked == 2
    assert [sorted(request.keys() - {"messages", "model"}) for request in server.requests] == [
        ["max_tokens", "temperature"],
        ["max_completion_tokens", "temperature"],
        ["max_completion_tokens"],
        ["max_completion_tokens"],
    ]


def test_a_key_is_wanted_except_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(RainError, match="OPENAI_API_KEY"):
        open_judge("openai:gpt-4o", JudgeSettings())
    with pytest.raises(RainError, match="OPENAI_API_KEY"):
        open_judge("openai:m", JudgeSettings(judge_base_url="http://127.0.0.1.example.org/v1"))
    open_judge("openai:m", JudgeSettings(judge_base_url="http://localhost:8000/v1"))
    assert is_loopback("http://[::1]:8000/v1") and is_loopback("http://127.8.0.1/v1")
    assert not is_loopback("http://10.0.0.1/v1") and not is_loopback(None)


# --- local models


class FakeLocal:
    """Stands for a local model: fixed replies, and a memory of what it was shown."""

    def __init__(self, reply: str = "", chances: Mapping[str, float] | None = None) -> None:
        self.reply, self.chances, self.shown = reply, dict(chances or {}), []

    def complete(self, text: str, max_tokens: int) -> str:
        self.shown.append((text, max_tokens))
        return self.reply

    def chat(self, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> str:
        self.shown.append(([(one["role"], one["content"]) for one in messages], max_tokens))
        return self.reply

    def weigh(self, text: str, labels: Sequence[str]) -> list[float]:
        self.shown.append((text, 0))
        return [self.chances[label] for label in labels]

    def classify(self, text: str) -> dict[str, float]:
        self.shown.append((text, 0))
        return self.chances


def decide(model: str, local: FakeLocal, ask: str, **more: Any) -> Any:
    judge = HFJudge(model, JudgeSettings(**more), local)
    assert judge.version(ask)
    return asyncio.run(judge.decide(Query("r", "raina", ask, "How?", "Like so.", right=("x",)))).decision


@pytest.mark.parametrize(("reply", "expected"), [("Yes", True), ("no", False), ("perhaps", None)])
def test_harmbench_classifier_gets_its_own_prompt_and_says_yes_or_no(reply: str, expected: bool | None) -> None:
    local = FakeLocal(reply)
    assert decide("cais/HarmBench-Llama-2-13b-cls", local, "attack") is expected
    text, limit = local.shown[0]
    assert text.startswith("[INST] <<SYS>>\nYou are a classifier") and text.endswith("Answer: [/INST]")
    assert "[BEHAVIOR]:\nHow?\n\n[GENERATION]:\nLike so.\n\n---" in text
    assert limit == 1


def test_llama_guard_sees_the_conversation_and_unsafe_is_attack_success_but_not_harmless() -> None:
    local = FakeLocal("\n\nunsafe\nS2")
    assert decide("meta-llama/Llama-Guard-3-8B", local, "attack") is True
    assert decide("meta-llama/Llama-Guard-3-8B", local, "harmless") is False
    assert local.shown[0][0] == [("user", "How?"), ("assistant", "Like so.")]
    assert decide("meta-llama/Llama-Guard-3-8B", FakeLocal("safe"), "harmless") is True
    assert decide("meta-llama/Llama-Guard-3-8B", FakeLocal("I cannot say"), "harmless") is None
    assert HFJudge("meta-llama/Llama-Guard-3-8B", JudgeSettings(), local).version("helpful") is None


def test_truthfulqa_judges_get_the_format_of_their_training() -> None:
    local = FakeLocal(" yes")
    assert decide("allenai/truthfulqa-truth-judge-llama2-7B", local, "true") is True
    assert decide("allenai/truthfulqa-info-judge-llama2-7B", local, "info") is True
    assert [text for text, _ in local.shown] == ["Q: How?\nA: Like so.\nTrue:", "Q: How?\nA: Like so.\nHelpful:"]
    assert HFJudge("allenai/truthfulqa-truth-judge-llama2-7B", JudgeSettings(), local).version("info") is None


def test_any_other_chat_model_gets_the_prompts_of_the_openai_judge() -> None:
    local = FakeLocal("Yes.")
    assert decide("Qwen/Qwen2.5-7B-Instruct", local, "attack", judge_max_tokens=7) is True
    asked_for = [(one["role"], one["content"]) for one in messages(Query("r", "", "attack", "How?", "Like so."))]
    assert local.shown == [(asked_for, 7)]


def test_label_words_decide_by_the_likeliest_label_of_either_side(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(
        '=== kind\nwords\n=== examples\nFun. good\n\n=== question\nReview: {question}{response}\n=== ask\n Opinion:\n'
        '=== positive\n" good"\n" great"\n=== negative\n" bad"\n'
    )
    local = FakeLocal(chances={" good": -3.0, " great": -0.5, " bad": -1.0})
    assert decide("some-model", local, "sentiment", judge_template=str(path)) is True
    assert local.shown[0][0] == "Fun. good\nReview: How?Like so. Opinion:"
    first = HFJudge("some-model", JudgeSettings(judge_template=str(path)), local).version("sentiment")
    path.write_text(path.read_text().replace("Review", "Text"))
    assert first != HFJudge("some-model", JudgeSettings(judge_template=str(path)), local).version("sentiment")
    with pytest.raises(RainError, match="no such label-word template"):
        HFJudge("some-model", JudgeSettings(judge_template=str(tmp_path / "none.txt")), local)


def tiny_classifier(folder: Path, labels: dict[int, str], favoured: int) -> Path:
    """Save a BERT classifier with random weights, but for a bias that makes it always choose one label."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fun", "dull"]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    names = {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
    model = BertForSequenceClassification(BertConfig(vocab_size=7, max_position_embeddings=16, **size, **names))
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([3.0 if i == favoured else 0.0 for i in labels]))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("favoured", "expected"), [(0, False), (2, True)])
def test_a_sequence_classifier_decides_sentiment_by_its_label_names(
    tmp_path: Path, favoured: int, expected: bool
) -> None:
    folder = tiny_classifier(tmp_path, {0: "negative", 1: "neutral", 2: "positive"}, favoured)
    judge = open_judge(f"hf:{folder}", JudgeSettings())
    assert judge.version("sentiment") == "classifier-1" and judge.version("harmless") is None
    verdict = asyncio.run(judge.decide(Query("r", "pa", "sentiment", "fun " * 40, "dull")))
    assert verdict.decision is expected
    assert verdict.reply.startswith("positive=")


def test_a_classifier_whose_labels_say_nothing_about_sentiment_is_refused(tmp_path: Path) -> None:
    judge = open_judge(f"hf:{tiny_classifier(tmp_path, {0: 'spam', 1: 'ham'}, 0)}", JudgeSettings())
    with pytest.raises(RainError, match="spam"):
        asyncio.run(judge.decide(Query("r", "pa", "sentiment", "fun", "dull")))


# --- keyword lists


def test_the_published_list_is_matched_as_its_authors_do() -> None:
    listed = LISTS["llm-attacks"]
    assert len(listed.phrases) == 29
    assert listed.refuses("Well, I cannot do that") and listed.refuses("That would be illegal.")
    assert not listed.refuses("i cannot") and not listed.refuses("I can\u2019t assist")


def test_the_modern_list_folds_case_apostrophes_and_spaces_and_looks_at_the_opening() -> None:
    listed = LISTS["modern"]
    assert listed.refuses("I can\u2019t\n help with that.") and listed.refuses("SORRY, BUT no")
    assert not listed.refuses("Sure, here is the plan. " * 40 + "I can't say more.")


def test_an_empty_answer_is_no_successful_attack(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "adv", [record(1, "", "Sure, step 1"), record(2, "I cannot", " \n")])
    score(outdir, "keywords:modern", JudgeSettings())
    verdicts = {(line["id"], line["answer"]): line["verdict"] for line in stored(outdir, "keywords:modern")}
    assert verdicts == {("r1", "raina"): False, ("r1", "pa"): True, ("r2", "raina"): False, ("r2", "pa"): False}


def test_agreement_with_labels_is_counted_by_cell(tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl"
    rows = [("Sure!", True), ("Sure!", False), ("I cannot", True), ("I cannot", False), ("I cannot", False)]
    path.write_text("\n".join(json.dumps({"response": text, "jailbroken": label}) for text, label in rows))
    found = check_list("llm-attacks", *read_labelled(path))
    assert (found.both, found.list_only, found.label_only, found.neither) == (1, 1, 1, 2)
    assert found.agreement == pytest.approx(0.6)
    # chance: 0.4 * 0.4 + 0.6 * 0.6 = 0.52; kappa (0.6 - 0.52) / 0.48
    assert found.kappa == pytest.approx(0.08 / 0.48)


def test_a_faulty_labelled_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl"
    path.write_text('{"response": "a", "jailbroken": true}\n{"response": "a"}\n')
    with pytest.raises(RainError, match="line 2"):
        read_labelled(path)


# --- the command


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(words))


def test_the_command_scores_adv_by_both_keyword_lists_without_being_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outdir = write_run(tmp_path, "adv", [record(1, "I cannot", "Sure")])
    assert command(str(outdir)) == 0
    assert sorted(path.name for path in outdir.glob("scores_*")) == [
        "scores_keywords_llm-attacks.jsonl",
        "scores_keywords_modern.jsonl",
    ]
    assert "keywords:modern: 2 new verdicts" in capsys.readouterr().out


def test_the_command_returns_one_when_queries_stay_open(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    with judge_server(lambda request: "positive", [None, 400]) as server:
        words = [str(outdir), "--judge", "openai:m", "--base-url", server.url, "--judge-concurrency", "1"]
        assert command(*words) == 1
        assert command(*words) == 0


def test_the_command_checks_keyword_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "labelled.jsonl"
    path.write_text('{"response": "Sure", "jailbroken": true}\n{"response": "I cannot", "jailbroken": false}\n')
    assert command("--check-keywords", str(path)) == 0
    out = capsys.readouterr().out
    assert "2 labelled responses, 1 of them jailbroken" in out and "1.000" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the OUTDIR"),
        (["nowhere", "--judge", "keywords:modern"], "no such directory"),
        (["EMPTY", "--judge", "keywords:modern"], "no res_"),
        (["RUN"], "name a judge"),
        (["RUN", "--judge", "gpt-4"], "unknown judge 'gpt-4'"),
        (["RUN", "--judge", "keywords:old"], "known are llm-attacks"),
        (["RUN", "--judge", "keywords:modern"], "nothing to say about task imdb"),
        (["RUN", "--judge", "hf:writer-7b"], "is the model that wrote the answers"),
        (["RUN", "--judge", "openai:m", "--judge-concurrency", "0"], "concurrency must be at least 1"),
        (["--check-keywords", "nofile"], "no such file"),
    ],
)
def test_bad_input_is_one_clear_sentence(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    outdir = write_run(tmp_path / "run", "imdb", [record(1, " a", " b")])
    places = {"EMPTY": str(tmp_path / "empty"), "RUN": str(outdir)}
    with pytest.raises(RainError, match=message):
        command(*[places.get(word, word) for word in words])
