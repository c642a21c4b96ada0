"""Rows of data sets from the records of a run, one function for each format.

Where a judge is named, its stored verdicts say which answers are good. Otherwise the values do that the run recorded:
those of the evaluator that guided it. TRL's formats: https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rain.core.errors import RainError
from rain.core.types import Json
from rain.export.siblings import sibling_pairs
from rain.judges.queries import SIDES, Run, continuation
from rain.report.measures import pair_results, questions
from rain.report.table import Outcome, Table
from rain.results.jsonl import Record
from rain.trace.record import TRACES, trace_file


class Options(NamedTuple):
    """How rows are made.

    Attributes:
        outdir: of the run.
        margin: by how much the values of two texts must differ at least.
        threshold: above which value a text is good.
        side: the field of the records whose answers `inspect` gets.
        judge: its verdicts: {(id, side): good}, and for a judge of pairs {id: 1 or -1}; None: no judge.
        name: of the judge and of what it was asked.
    """

    outdir: Path
    margin: float = 0.1
    threshold: float = 0.0
    side: str = SIDES[0]
    judge: tuple[dict[tuple[str, str], bool], dict[str, int]] | None = None
    name: str = ""

    def good(self, record: Record, side: str) -> bool | None:
        """Tell whether an answer is good, None if nobody knows."""
        if self.judge:
            return self.judge[0].get((record["id"], side))
        value = value_of(record) if side == SIDES[0] else None
        return None if value is None else value > self.threshold


def judged(run: Run, name: str, criterion: str) -> Options:
    """Return options with the stored verdicts of a judge.

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
    ids, options = list(table.rows), Options(run.outdir, name=", ".join(key))
    if key in pairs:
        results = zip(ids, pair_results(table, pairs[key]), strict=True)
        return options._replace(judge=({}, {id: {"win": 1, "lose": -1}.get(result, 0) for id, result in results}))
    bad = key[1] == "attack"
    good = {
        (id, side): (outcome is Outcome.YES) != bad
        for side, outcomes in asked[key].items()
        for id, outcome in zip(ids, outcomes, strict=True)
        if outcome in (Outcome.YES, Outcome.NO)
    }
    return options._replace(judge=(good, {}))


def value_of(record: Record) -> float | None:
    """Return the value of a record's answer by the evaluator of the run, None if it is not recorded."""
    moves = record.get("moves") or [{}]
    value = record.get("value", moves[-1].get("value"))
    return None if value is None else float(value)


def said(task: str, record: Record, completion: str, name: str = "completion") -> Json:
    """Return prompt and completion as a conversation; of imdb, where answers continue an opening, as texts."""
    question = record["question"]
    if task == "imdb":
        return {"prompt": question, name: continuation(question, completion)}
    return {"prompt": [{"role": "user", "content": question}], name: [{"role": "assistant", "content": completion}]}


def preference(task: str, record: Record, options: Options) -> Iterator[Json]:
    """Yield pairs of texts of which one is better: {prompt, chosen, rejected}."""
    for chosen, rejected in _pairs(record, options):
        yield {**said(task, record, chosen, "chosen"), **said(task, record, rejected, "rejected")}


def _pairs(record: Record, options: Options) -> Iterator[tuple[str, str]]:
    if options.judge:
        good = [options.good(record, side) for side in SIDES]
        result = options.judge[1].get(record["id"], 0 if None in good else bool(good[0]) - bool(good[1]))
        if result in (1, -1) and record[SIDES[0]] != record[SIDES[1]]:
            yield (record[SIDES[0]], record[SIDES[1]])[::result]
        return
    drafts = sorted((one["value"], one["text"]) for one in record.get("drafts") or () if one["value"] is not None)
    if drafts and drafts[-1][0] - drafts[0][0] >= options.margin and drafts[-1][1] != drafts[0][1]:
        yield drafts[-1][1], drafts[0][1]
    if (trace := trace_file(options.outdir / TRACES, record["id"])).exists():
        for one in sibling_pairs(trace):
            if one.chosen_value - one.rejected_value >= options.margin:
                yield one.chosen.lstrip(), one.rejected.lstrip()


def unpaired(task: str, record: Record, options: Options) -> Iterator[Json]:
    """Yield answers with a label: {prompt, completion, label}."""
    for side in SIDES:
        if (good := options.good(record, side)) is not None and isinstance(record.get(side), str):
            yield {**said(task, record, record[side]), "label": good}


def sft(task: str, record: Record, options: Options) -> Iterator[Json]:
    """Yield the good answers of the run's method: {prompt, completion}."""
    if options.good(record, SIDES[0]):
        yield said(task, record, record[SIDES[0]])


def stepwise(task: str, record: Record, options: Options) -> Iterator[Json]:
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


def inspect(task: str, record: Record, options: Options) -> Iterator[Json]:
    """Yield the verdict on an answer, as Inspect's scorer `precomputed_scores` reads it: {id, value, answer, ...}."""
    if options.judge and (good := options.good(record, options.side)) is not None:
        yield {"id": record["id"], "value": int(good), "answer": record[options.side], "explanation": options.name}


FORMATS: Mapping[str, Callable[[str, Record, Options], Iterator[Json]]] = {
    "trl-preference": preference, "trl-unpaired": unpaired, "trl-stepwise": stepwise, "sft": sft, "inspect": inspect
}  # fmt: skip
