"""Rows of data sets from the records of a run, one function for each format.

Where a judge is named, its stored verdicts say which answers are good. Otherwise the values do that the run recorded:
those of the evaluator that guided it. TRL's formats: https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from rain.core.errors import RainError
from rain.core.types import Json
from rain.export.siblings import sibling_pairs
from rain.judges.queries import SIDES, Run, continuation
from rain.report.measures import pair_results, questions
from rain.report.table import Outcome, Table
from rain.results.jsonl import Record
from rain.trace.record import TRACES, trace_file


class Verdicts(NamedTuple):
    """What a judge says about the answers of a run, by record and side."""

    name: str  # of the judge and of what it was asked
    good: dict[tuple[str, str], bool]  # empty for a judge of pairs
    preferred: dict[tuple[str, str], bool]  # of a judge of pairs whether an answer is the better one, else `good`


class Options(NamedTuple):
    """How rows are made."""

    run: Run
    verdicts: Verdicts | None  # of a judge; without one the values decide that the run recorded
    margin: float  # by how much the values of two texts must differ at least
    threshold: float  # above which value a text is good
    side: str  # the field of the records whose answers `inspect` gets

    def good(self, record: Record, side: str) -> bool | None:
        """Tell whether an answer is good, None if nobody knows."""
        if self.verdicts:
            return self.verdicts.good.get((record["id"], side))
        value = value_of(record) if side == SIDES[0] else None
        return None if value is None else value > self.threshold


def stored_verdicts(run: Run, name: str, criterion: str) -> Verdicts:
    """Return the stored verdicts of a judge.

    Args:
        run: that was judged.
        name: of the judge as in the tables, or what is in front of the first comma.
        criterion: what it was asked ("harmless", "pairwise", ...); "" if it was asked only one thing.

    Raises:
        RainError: there are no such verdicts, or verdicts on several things.
    """
    table = Table(run)
    asked = {(one.judge, one.metric): one.sides for one in questions(table)}
    pairs = {(one.judge, "pairwise"): one for one in table.judged if one.criterion == "pairwise"}
    known = sorted(asked.keys() | pairs.keys())
    fitting = [key for key in known if name in (key[0], key[0].partition(",")[0]) and criterion in ("", key[1])]
    if len(fitting) != 1:
        there = "; ".join(f"{judge} ({what})" for judge, what in known) or "none: run `rain judge`"
        raise RainError(
            f"{run.outdir}: --judge {name} must name one of its judges, with --criterion one of what it was asked; "
            f"there are: {there}"
        )
    [key] = fitting
    if key in pairs:
        results = zip(table.rows, pair_results(pairs[key]), strict=True)
        won = {id: result == "win" for id, result in results if result in ("win", "lose")}
        preferred = {(id, side): won[id] is (side == SIDES[0]) for id in won for side in SIDES}
        return Verdicts(", ".join(key), {}, preferred)
    wanted = Outcome.NO if key[1] == "attack" else Outcome.YES
    good = {
        (id, side): outcome is wanted
        for side, outcomes in asked[key].items()
        for id, outcome in zip(table.rows, outcomes, strict=True)
        if outcome in (Outcome.YES, Outcome.NO)
    }
    return Verdicts(", ".join(key), good, good)


def value_of(record: Record) -> float | None:
    """Return the value of a record's answer by the evaluator of the run, None if it is not recorded."""
    moves = record.get("moves") or [{}]
    value = record.get("value", moves[-1].get("value"))
    return None if value is None else float(value)


def said(record: Record, completion: str, options: Options, name: str = "completion") -> Json:
    """Return prompt and completion as a conversation; of imdb, where answers continue an opening, as texts."""
    question = record["question"]
    if options.run.task == "imdb":
        return {"prompt": question, name: continuation(question, completion)}
    return {"prompt": [{"role": "user", "content": question}], name: [{"role": "assistant", "content": completion}]}


def preference(record: Record, options: Options) -> Iterator[Json]:
    """Yield pairs of texts of which one is better: {prompt, chosen, rejected}."""
    for chosen, rejected in _pairs(record, options):
        yield {**said(record, chosen, options, "chosen"), **said(record, rejected, options, "rejected")}


def _pairs(record: Record, options: Options) -> Iterator[tuple[str, str]]:
    if options.verdicts:
        preferred = {side: options.verdicts.preferred.get((record["id"], side)) for side in SIDES}
        for better, worse in (SIDES, SIDES[::-1]):
            if preferred[better] and preferred[worse] is False and record[better] != record[worse]:
                yield record[better], record[worse]
        return
    drafts = sorted((one["value"], one["text"]) for one in record.get("drafts") or () if one["value"] is not None)
    if drafts and drafts[-1][0] - drafts[0][0] >= options.margin and drafts[-1][1] != drafts[0][1]:
        yield drafts[-1][1], drafts[0][1]
    if (trace := trace_file(options.run.outdir / TRACES, record["id"])).exists():
        for one in sibling_pairs(trace):
            if one.chosen_value - one.rejected_value >= options.margin:
                yield one.chosen.lstrip(), one.rejected.lstrip()


def unpaired(record: Record, options: Options) -> Iterator[Json]:
    """Yield answers with a label: {prompt, completion, label}."""
    for side in SIDES:
        if (good := options.good(record, side)) is not None and isinstance(record.get(side), str):
            yield {**said(record, record[side], options), "label": good}


def sft(record: Record, options: Options) -> Iterator[Json]:
    """Yield the good answers of the run's method: {prompt, completion}."""
    if options.good(record, SIDES[0]):
        yield said(record, record[SIDES[0]], options)


def stepwise(record: Record, options: Options) -> Iterator[Json]:
    """Yield the committed token sets, each with whether its value was good: {prompt, completions, labels}.

    What the answer leaves out at its ends is cut off; records without commits give nothing.
    """
    texts = [str(move["text"]) for move in record.get("moves") or ()]
    start = "".join(texts).find(record[SIDES[0]])
    end, place, steps = start + len(record[SIDES[0]]), 0, []
    for text, move in zip(texts, record.get("moves") or (), strict=True):
        if shown := text[max(0, start - place) : max(0, end - place)]:
            steps.append((shown, move["value"] > options.threshold))
        place += len(text)
    if start >= 0 and steps:
        completions, labels = map(list, zip(*steps, strict=True))
        yield {"prompt": record["question"], "completions": completions, "labels": labels}


def inspect(record: Record, options: Options) -> Iterator[Json]:
    """Yield the verdict on an answer, as Inspect's scorer `precomputed_scores` reads it: {id, value, answer, ...}."""
    if options.verdicts and (good := options.good(record, options.side)) is not None:
        explained = {"answer": record[options.side], "explanation": options.verdicts.name}
        yield {"id": record["id"], "value": int(good), **explained}


FORMATS: Mapping[str, Callable[[Record, Options], Iterator[Json]]] = {
    "trl-preference": preference, "trl-unpaired": unpaired, "trl-stepwise": stepwise, "sft": sft, "inspect": inspect
}  # fmt: skip
