"""What is asked about the records of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.judge_server import record, write_run

from rain.core.errors import RainError
from rain.judges.base import Query
from rain.judges.queries import FLUENCY, load_run, queries_for


def asked(task: str, one: dict[str, Any]) -> list[Query]:
    return [query for query in queries_for(task, one) if query.criterion != FLUENCY]


def test_every_answer_of_every_task_can_be_asked_for_its_fluency() -> None:
    for task in ("hh", "adv", "truth", "imdb"):
        found = [query for query in queries_for(task, record(1, "R", "P")) if query.criterion == FLUENCY]
        assert [(query.side, query.response.strip()) for query in found] == [("raina", "R"), ("pa", "P")]


def test_hh_asks_two_questions_about_each_answer_and_compares_them_in_both_orders() -> None:
    queries = asked("hh", record(1, "R", "P"))
    single = [(criterion, side) for criterion in ("harmless", "helpful") for side in ("raina", "pa")]
    pairs = [("pairwise", "raina,pa"), ("pairwise", "pa,raina")]
    assert [(query.criterion, query.side) for query in queries] == single + pairs
    assert (queries[-1].response, queries[-1].other) == ("P", "R")


def test_adv_is_judged_by_the_goal_without_the_suffix() -> None:
    attacked = asked("adv", record(1, "R", "P", question="Do it !!x", goal="Do it", controls="!!x"))
    assert [query.question for query in attacked] == ["Do it", "Do it"]


def test_truth_comes_with_reference_answers() -> None:
    true, _, info, _ = asked("truth", record(1, "R", "P", correct_answers=["yes"], incorrect_answers=["no", "x"]))
    assert (true.criterion, true.right, true.wrong) == ("true", ("yes",), ("no", "x"))
    assert (info.criterion, info.right, info.wrong) == ("info", (), ())
    [best, *_] = asked("truth", record(1, "R", "P", best_answer="yes"))
    assert best.right == ("yes",)


def test_a_review_gets_back_the_space_that_was_stripped() -> None:
    queries = asked("imdb", record(1, "was fun", " was dull", question="The film"))
    assert [query.question + query.response for query in queries] == ["The film was fun", "The film was dull"]
    [ended, _] = asked("imdb", record(1, ", in short", "x", question="The film"))
    assert ended.response == ", in short"


def test_lone_surrogates_become_question_marks() -> None:
    [harmless, *_] = asked("hh", record(1, "a\ud800b", "P", question="\udfff?"))
    assert (harmless.question, harmless.response) == ("??", "a?b")


def test_a_run_without_baseline_is_asked_about_rain_alone() -> None:
    queries = asked("hh", {"id": "r1", "question": "q", "raina": "R"})
    assert [(query.criterion, query.side) for query in queries] == [("harmless", "raina"), ("helpful", "raina")]


def test_the_hash_changes_with_everything_that_the_judge_is_shown() -> None:
    base = {"record": "r", "side": "pa", "criterion": "true", "question": "q", "response": "a"}
    shown = [{}, {"question": "Q"}, {"response": "b"}, {"other": "c"}, {"right": ("x",)}, {"wrong": ("x",)}]
    assert len({Query(**{**base, **change}).digest for change in shown}) == len(shown)
    assert Query("r", "pa", "harmless", "What now?", "No.").digest == "e511f150397d05ef", "stored verdicts stay valid"


def test_incomplete_lines_are_counted_and_failed_prompts_kept_apart(tmp_path: Path) -> None:
    failed = {"id": "r2", "question": "q", "error": "out of memory"}
    found = load_run(write_run(tmp_path, "imdb", [record(1, " a", " b"), failed], tail='{"id": "r3", "rai'))
    assert [one["id"] for one in found.records] == ["r1"]
    assert [one["id"] for one in found.errors] == ["r2"]
    assert found.torn == 1


def test_config_files_of_both_formats_are_read(tmp_path: Path) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")], target="negative")
    found = load_run(outdir)
    assert (found.task, found.hash, found.config["evaluation"]["target"]) == ("imdb", "0123", "negative")
    old = {"task": "hh", "hash": "4567", "evaluation": {"target": ""}}
    (outdir / "config.json").write_text(json.dumps(old))
    found = load_run(outdir)
    assert (found.task, found.hash, found.config) == ("hh", "4567", old)


@pytest.mark.parametrize("config", [{"format": 2, "aligner": 3}, {"format": 2, "aligner": {}}, {}])
def test_a_config_file_without_a_task_is_named(tmp_path: Path, config: dict[str, Any]) -> None:
    outdir = write_run(tmp_path, "imdb", [record(1, " a", " b")])
    (outdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(RainError, match=r"config\.json: field task is missing"):
        load_run(outdir)
