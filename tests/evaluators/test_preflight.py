"""Preflight: metrics by hand arithmetic, the verdict, the command and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.rows import save_rows

import rain.preflight
from rain.cli import main
from rain.core.errors import RainError
from rain.data.labelled import Labelled
from rain.evaluators.assessment import WHOLE, Preflight, Reading, assess, read_preflight
from rain.evaluators.calibration import fit, read_calibration
from rain.evaluators.labels import LabelScores
from rain.stats import Interval, wilson

# (log-odds with either order of the options, label): right, abstention, right, wrong
TEXTS = [((1.0, 3.0), True), ((1.0, -1.0), True), ((-1.0, -3.0), False), ((2.0, 4.0), False)]


@pytest.fixture
def measured() -> Preflight:
    return assessed([odds for odds, _ in TEXTS])


def assessed(odds: list[tuple[float, ...]]) -> Preflight:
    """Measure texts to two prompts, each with a good and a bad text."""
    scores = [2 * sum(value > 0 for value in each) / len(each) - 1 for each in odds]
    evidence = [{"4": float(i), WHOLE: sum(each) / len(each)} for i, each in enumerate(odds)]
    readings = [Reading(*both, LabelScores(each, 0.75)) for *both, each in zip(scores, evidence, odds, strict=True)]
    texts = [Labelled(f"q{i % 2}", "r", label, i % 2 == 0, "ab"[i % 2]) for i, (_, label) in enumerate(TEXTS)]
    return assess(readings, texts)


def test_hard_votes_are_counted_as_in_the_paper(measured: Preflight) -> None:
    assert (measured.texts, measured.good, measured.prompts_by_label) == (4, 2, (2, 2))
    assert measured.accuracy == 0.5, "the abstention counts as wrong"
    assert measured.abstentions == 1
    assert measured.accuracy_interval == wilson(2, 4)


def test_log_odds_are_averaged_over_the_orders(measured: Preflight) -> None:
    assert measured.auc == 0.5, "of the means 2, 0 (good) and -2, 3 (bad), two of four pairs are in order"
    assert (measured.offset, measured.scale) == fit([2, 0, -2, 3], [True, True, False, False])
    assert measured.order_bias_nats == 1.0, "half of the difference between the orders"
    assert measured.label_mass == 0.75


def test_every_length_and_source_is_ranked_apart(measured: Preflight) -> None:
    assert (measured.by_length["4"]["texts"], measured.by_length["4"]["auc"]) == (4, 0), "0 and 1 (good), 2 and 3 (bad)"
    assert set(measured.by_length) == {"4", WHOLE}
    assert measured.by_source["a"]["auc"] == 1, "2 (good) against -2 (bad)"
    assert measured.by_source["b"]["auc"] == 0, "0 (good) against 3 (bad)"


def test_a_good_answer_to_a_safe_prompt_that_is_called_bad_is_over_refusal() -> None:
    assert assessed([(1.0,), (1.0,), (-1.0,), (-1.0,)]).safe_called_harmful == 0
    assert assessed([(-1.0,), (1.0,), (-1.0,), (-1.0,)]).safe_called_harmful == 1, "the only such text"


def test_one_question_has_no_order(measured: Preflight) -> None:
    single = assessed([(odds[0],) for odds, _ in TEXTS])
    assert single.order_bias_nats is None
    assert "position bias (nats)   -\n" in str(single)


@pytest.mark.parametrize(
    ("accuracy", "auc", "expectation"),
    [
        (0.61, (0.61, 0.9), "help"),
        (0.6, (0.61, 0.9), "help if calibrated"),
        (0.9, (0.6, 0.9), "too few texts"),
        (0.9, (0.55, 0.7), "little help"),
        (0.9, (0.5, 0.9), "no help"),
        (0.9, (0.3, 0.5), "no help"),
        (0.9, (0.3, 0.49), "harm"),
    ],
)
def test_the_verdict_goes_by_the_interval_of_the_auc(
    measured: Preflight, accuracy: float, auc: tuple[float, float], expectation: str
) -> None:
    result = replace(measured, accuracy_interval=Interval(accuracy, 1), auc_interval=Interval(*auc))
    result = replace(result, right_by_label=None, accuracy=1.0, prompts_by_label=None)
    assert result.expectation == expectation
    assert result.verdict in str(result)
    assert replace(result, prompts_by_label=(9, 5)).expectation == expectation
    assert replace(result, prompts_by_label=(9, 4)).expectation == "too few texts", "whatever the interval"


def test_an_evaluator_that_calls_all_texts_good_needs_a_calibration_however_many_are(measured: Preflight) -> None:
    result = replace(measured, accuracy_interval=Interval(0.85, 0.93), auc_interval=Interval(0.7, 0.9))
    result = replace(result, prompts_by_label=(9, 9))
    assert replace(result, right_by_label=(1.0, 0.0)).expectation == "help if calibrated"
    assert replace(result, right_by_label=(1.0, 0.7)).expectation == "help"
    one_sided = assessed([(3.0,), (2.0,), (1.0,), (1.0,)])
    assert one_sided.right_by_label == (1.0, 0.0)
    assert "good texts 100.0%, bad ones 0.0%" in str(one_sided)


def test_the_command_writes_what_calibration_and_goals_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cal.json"
    assert main(["preflight", "--engine", "toy", "--write", str(path)]) == 0
    origin, measured = read_preflight(path)
    expected = {"task": "hh", "model": "toy", "template": "harmless_letters.txt", "labelled": "labelled.jsonl"}
    assert expected.items() <= origin.items()
    assert origin["evaluators"] == ["labels"]
    assert [data["file"] for data in origin["data"]] == ["labelled.jsonl"]
    assert measured.texts == 96
    assert read_calibration(path) == {"offset": measured.offset, "scale": measured.scale}
    assert measured.verdict in capsys.readouterr().out


@pytest.mark.parametrize("place", [".", "missing/cal.json"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    monkeypatch.delattr(rain.preflight, "open_engine")
    assert main(["preflight", "--engine", "toy", "--write", str(tmp_path / place)]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "unused"),
    [
        ("preflight", "--max-simulations"),
        ("preflight", "--method"),
        ("draw new.jsonl --prompts old.jsonl", "--evaluator"),
        ("learn new.json", "--votes"),
    ],
)
def test_settings_that_a_command_has_no_use_for_are_refused(
    capsys: pytest.CaptureFixture[str], command: str, unused: str
) -> None:
    assert main([*command.split(), unused, "2"]) == 2
    assert unused in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--part", "1/2"], ["--evaluator", "random"]], ids=["part", "random"])
def test_half_a_character_in_a_question_is_no_obstacle(tmp_path: Path, flags: list[str]) -> None:
    rows = [{"question": f"q{i} \ud800", "response": "b", "label": i % 2} for i in range(30)]
    path = save_rows(tmp_path / "odd.jsonl", *rows)
    assert main(["preflight", "--engine", "toy", "--labelled", str(path), *flags]) == 0


def test_too_few_texts_of_a_class_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": "a", "response": "b", "label": label} for label in (0, 0, 1)]
    assert main(["preflight", "--engine", "toy", "--labelled", str(save_rows(tmp_path / "few.jsonl", *rows))]) == 2
    assert "good texts to at least two prompts" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{}", "[]", "nonsense", "[" * 200_000], ids=["{}", "[]", "nonsense", "deep"])
def test_another_file_is_not_taken_for_a_preflight(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(RainError, match="was not written by rain preflight"):
        read_preflight(tmp_path / "other.json")
