"""What ratings say: which method wins, how far raters agree with each other, with themselves, and with judges.

The report, which `rain annotate score` writes to DIR/scores/score.json (shares in [0, 1], intervals low and high at
95 %; null if nothing is known):

    schema, study, question, version (of the wording), task, items, gold_items
    raters[]    rater, rated, of, median_seconds, fast (ratings in less than FAST_S), side {left, right, share, low,
                high, p} (pairs), self {n, agree, share, low, high, kappa} (repeats), gold {n, agree, share, low, high}
    agreement   measure (kappa or alpha), raters, items, value, low, high
    systems[]   name, runs; preferred: strength, low, high (Bradley-Terry, if there are more than two);
                else yes, of, rate, low, high, null
    pairs[]     first, second; preferred: win, loss, tie, both_bad (of the ties), identical, win_rate, low, high, p
                (sign test);
                else pairs, difference, low, high, first_only, second_only, p (McNemar)
    judges[]    run, judge, criterion, n, agree, share, low, high, kappa, decided, decided_agree

A verdict about an item is that of most raters; without a majority it is a tie, or null for single answers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import median

import numpy as np

from rain.annotate.make import SCHEMA, Json
from rain.annotate.read import OTHER, Rating
from rain.annotate.statistics import Counts, alpha, bootstrap, bradley_terry, cohen, known
from rain.report.measures import compare, share
from rain.report.table import Outcome
from rain.stats import mcnemar, wilson

FAST_S = 2.0
"""A rating in less time was hardly a reading (seconds)."""

OUTCOMES = {"yes": Outcome.YES, "no": Outcome.NO, "unsure": Outcome.UNREADABLE}

Verdicts = Mapping[int, str]
"""Verdict by item."""


def score(secret: Json, ratings: Sequence[Rating]) -> Json:
    """Return the report about the ratings of a study, without its judges."""
    right = {number: item[2] for number, item in enumerate(secret["items"]) if item[2]}
    first = [one for one in ratings if not one.repeat and one.item not in right]
    verdicts = majorities(first)
    return {
        "schema": SCHEMA,
        **{name: secret[name] for name in ("study", "question", "version", "task")},
        "items": len(secret["items"]) - len(right),
        "gold_items": len(right),
        "raters": [_rater(secret, rater, ratings, right) for rater in sorted({one.rater for one in ratings}, key=int)],
        "agreement": _agreement(secret, first),
        "systems": _systems(secret, verdicts),
        "pairs": _pairs(secret, verdicts),
    }


def settled(verdict: str) -> str:
    """Return a verdict for comparisons: two bad answers are a tie."""
    return "tie" if verdict == "bad" else verdict


def majorities(ratings: Iterable[Rating]) -> dict[int, str]:
    """Return the verdict of most raters for each item; "tie" or "unsure" if there is none."""
    votes: dict[int, Counter[str]] = defaultdict(Counter)
    for one in ratings:
        votes[one.item][one.verdict] += 1
    found = {}
    for item, counts in votes.items():
        (verdict, most), *rest = Counter(map(settled, counts.elements())).most_common(2)
        none = "tie" if counts.keys() & {*OTHER, "tie", "bad"} else "unsure"
        verdict = none if rest and rest[0][1] == most else verdict
        found[item] = "bad" if verdict == "tie" and 2 * counts["bad"] > counts.total() else verdict
    return found


def agreed(pairs: Sequence[tuple[str, str]]) -> Json:
    """Return {n, agree, share, low, high} of pairs of verdicts, with Wilson's interval."""
    same = sum(a == b for a, b in pairs)
    return {"n": len(pairs), "agree": same, "share": same / len(pairs) if pairs else None,
            **wilson(same, len(pairs))._asdict()}  # fmt: skip


def _rater(secret: Json, rater: str, ratings: Sequence[Rating], right: Verdicts) -> Json:
    own = [one for one in ratings if one.rater == rater]
    again = {one.item: settled(one.verdict) for one in own if one.repeat}
    twice = [(settled(one.verdict), again[one.item]) for one in own if not one.repeat and one.item in again]
    sides = Counter(one.side for one in own if one.side and not one.repeat and one.item not in right)
    left, decided = sides["left"], sides["left"] + sides["right"]
    side = {"left": left, "right": sides["right"], "share": left / decided if decided else None}
    return {
        "rater": rater,
        "rated": len(own),
        "of": len(secret["raters"][rater]["showings"]),
        "median_seconds": median(one.ms for one in own) / 1000,
        "fast": sum(one.ms < 1000 * FAST_S for one in own),
        "side": {**side, **wilson(left, decided)._asdict(), "p": mcnemar(left, sides["right"])},
        "self": {**agreed(twice), "kappa": known(cohen(*zip(*twice, strict=True)) if twice else np.nan)},
        "gold": agreed([(one.verdict, right[one.item]) for one in own if one.item in right]),
    }


def _agreement(secret: Json, ratings: Sequence[Rating]) -> Json | None:
    """Return how far raters agree: Cohen's kappa for two, Krippendorff's alpha for more; None for one."""
    raters = sorted({one.rater for one in ratings})
    if len(raters) < 2:
        return None
    given: dict[int, dict[str, str]] = defaultdict(dict)
    for one in ratings:
        given[one.item][one.rater] = settled(one.verdict)
    items = [item for item in given if len(given[item]) > 1]
    found: Json = {"measure": "kappa" if len(raters) == 2 else "alpha", "raters": len(raters), "items": len(items)}
    if not items:
        return {**found, "value": None, "low": None, "high": None}
    names = sorted({verdict for item in items for verdict in given[item].values()})
    codes = np.array([[names.index(given[item][rater]) if rater in given[item] else -1 for rater in raters]
                      for item in items])  # fmt: skip
    counts: Counts = (codes[:, :, None] == np.arange(len(names))).sum(axis=1).astype(float)

    def value(rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> float:
        return cohen(codes[rows, 0], codes[rows, 1]) if len(raters) == 2 else alpha(counts[rows])

    low, high = bootstrap(value, [secret["items"][item][0] for item in items])
    return {**found, "value": known(value(np.arange(len(items)))), "low": known(low), "high": known(high)}


def compared(secret: Json, verdicts: Verdicts) -> list[tuple[str, int, int, str]]:
    """Return (prompt, method, method, verdict) for each pair of answers, identical ones too."""
    rows = [(prompt, i, j, "identical") for prompt, i, j in secret["ties"]]
    for item, verdict in verdicts.items():
        prompt, (one, other), _ = secret["items"][item]
        rows += [
            (prompt, *((i, j, verdict) if i < j else (j, i, OTHER.get(verdict, verdict)))) for i in one for j in other
        ]
    return rows


def single(secret: Json, verdicts: Verdicts) -> dict[int, dict[str, Outcome]]:
    """Return the outcome of each rated answer: {method: {prompt: outcome}}."""
    found: dict[int, dict[str, Outcome]] = {number: {} for number in range(len(secret["systems"]))}
    for item, verdict in verdicts.items():
        prompt, (owners,), _ = secret["items"][item]
        for system in owners:
            found[system][prompt] = OUTCOMES[verdict]
    return found


def _systems(secret: Json, verdicts: Verdicts) -> list[Json]:
    names = [{"name": one["name"], "runs": [run for run, _ in one["sides"]]} for one in secret["systems"]]
    if secret["question"] != "preferred":
        return [{**names[i], **share(list(found.values()))} for i, found in single(secret, verdicts).items()]
    if len(names) < 3:
        return names
    rows = compared(secret, verdicts)
    points = {"first": 1.0, "second": 0.0}

    def strengths(chosen: Iterable[int]) -> Counts:
        wins = np.zeros((len(names), len(names)))
        for _, i, j, verdict in (rows[k] for k in chosen):
            won = points.get(verdict, 0.5)
            wins[i, j] += won
            wins[j, i] += 1 - won
        return bradley_terry(wins)

    value = strengths(range(len(rows)))
    low, high = bootstrap(strengths, [row[0] for row in rows])
    found = zip(names, value, low, high, strict=True)
    return [{**name, "strength": known(v), "low": known(a), "high": known(b)} for name, v, a, b in found]


def _pairs(secret: Json, verdicts: Verdicts) -> list[Json]:
    names = [one["name"] for one in secret["systems"]]
    chosen = list(combinations(range(len(names)), 2))
    if secret["question"] != "preferred":
        found = single(secret, verdicts)
        return [{"first": names[i], "second": names[j], **_compare(found[i], found[j])} for i, j in chosen]
    results: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for _, i, j, verdict in compared(secret, verdicts):
        results[i, j][verdict] += 1
    return [{"first": names[i], "second": names[j], **_wins(results[i, j])} for i, j in chosen]


def _compare(first: Mapping[str, Outcome], second: Mapping[str, Outcome]) -> Json:
    common = sorted(first.keys() & second.keys())
    return compare([first[id] for id in common], [second[id] for id in common])


def _wins(counts: Counter[str]) -> Json:
    win, loss = counts["first"], counts["second"]
    found = {"win": win, "loss": loss, "tie": counts["tie"] + counts["bad"], "both_bad": counts["bad"]}
    rate = {"win_rate": win / (win + loss) if win + loss else None, **wilson(win, win + loss)._asdict()}
    return {**found, "identical": counts["identical"], **rate, "p": mcnemar(win, loss)}
