"""What ratings say: which method wins, how far raters agree with each other and with themselves, and how they rate.

The report, which `rain annotate score` writes to DIR/scores/score.json. A share is {yes, of, rate, low, high}, with
Wilson's interval, a number {value, low, high}; intervals are at 95 %, and null is what is not known.

    schema, study, question, wording, task, items, raters
    methods[]    method; preferred: strength (Bradley-Terry, of more than two methods); else yes (share), cannot_tell
    pairs[]      first, second; preferred: wins, ties, both_bad (of ties), losses, identical, wins_of_decided,
                 p (sign test);
                 else pairs, difference (Newcombe's interval), first_only, second_only, p (McNemar)
    agreement[]  measure (kappa of two raters, alpha of more), raters, items, agreement
    by_rater[]   rater, rated, median_s, too_fast (in less than FAST_S), left (of the sides preferred), p (side bias),
                 same_when_repeated, kappa, gold_right
    judges[]     judge, criterion, run, agrees, kappa, agrees_without_ties

The verdict about an item is that of most raters; without one it is a tie, or "unsure" for single answers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import median

import numpy as np

from rain.annotate.make import SCHEMA
from rain.annotate.read import Rating
from rain.annotate.statistics import Floats, Rows, alpha, bradley_terry, cohen, known, with_interval
from rain.core.types import Json
from rain.judges.base import OTHER
from rain.report.measures import compare, portion, share
from rain.report.table import Outcome
from rain.stats import mcnemar

FAST_S = 2.0
"""A rating in less time was hardly a reading (seconds)."""

OUTCOMES = {"yes": Outcome.YES, "no": Outcome.NO, "unsure": Outcome.UNREADABLE}


def score(secret: Json, ratings: Sequence[Rating]) -> Json:
    """Return the report about the ratings of a study, without its judges."""
    verdicts = majorities(secret, ratings)
    raters = sorted({one.rater for one in ratings}, key=int)
    preferred = secret["question"] == "preferred"
    return {
        "schema": SCHEMA,
        **{name: secret[name] for name in ("study", "question", "task")},
        "wording": secret["version"],
        "items": sum(not right for *_, right in secret["items"]),
        "raters": len(raters),
        "methods": _strengths(secret, verdicts) if preferred else _rates(secret, verdicts),
        "pairs": _wins(secret, verdicts) if preferred else _differences(secret, verdicts),
        "agreement": _agreement(secret, first_ratings(ratings)) if len(raters) > 1 else [],
        "by_rater": [_rater(secret, rater, [one for one in ratings if one.rater == rater]) for rater in raters],
    }


def first_ratings(ratings: Iterable[Rating]) -> list[Rating]:
    """Return the ratings that are neither repeats nor of gold items."""
    return [one for one in ratings if not one.repeat and not one.right]


def settled(verdict: str) -> str:
    """Return a verdict for comparisons: two bad answers are a tie."""
    return "tie" if verdict == "bad" else verdict


def majorities(secret: Json, ratings: Iterable[Rating]) -> dict[int, str]:
    """Return the verdict of most raters for each item, "bad" for ties that most raters called so."""
    votes: dict[int, list[str]] = defaultdict(list)
    for one in first_ratings(ratings):
        votes[one.item].append(one.verdict)
    found = {}
    for item, given in votes.items():
        (verdict, most), *rest = Counter(map(settled, given)).most_common(2)
        if rest and rest[0][1] == most:
            verdict = "tie" if secret["question"] == "preferred" else "unsure"
        found[item] = "bad" if 2 * given.count("bad") > len(given) else verdict
    return found


def agreed(pairs: Sequence[tuple[str, str]]) -> Json:
    """Return the share of pairs of equal verdicts."""
    return portion(sum(a == b for a, b in pairs), len(pairs))


def _rater(secret: Json, rater: str, own: Sequence[Rating]) -> Json:
    gold = [(one.verdict, one.right) for one in own if one.right]
    first, again = first_ratings(own), {one.item: settled(one.verdict) for one in own if one.repeat}
    twice = [(settled(one.verdict), again[one.item]) for one in first if one.item in again]
    left, right = ([one.shown for one in first].count(side) for side in OTHER)
    return {
        "rater": rater,
        "rated": f"{len(own)}/{len(secret['raters'][rater]['showings'])}",
        "median_s": median(one.ms for one in own) / 1000,
        "too_fast": sum(one.ms < 1000 * FAST_S for one in own),
        "left": portion(left, left + right),
        "p": mcnemar(left, right) if left + right else None,
        "same_when_repeated": agreed(twice),
        "kappa": known(cohen(twice)),
        "gold_right": agreed(gold),
    }


def _agreement(secret: Json, ratings: Sequence[Rating]) -> list[Json]:
    """Return how far raters agree: Cohen's kappa for two, Krippendorff's alpha for more."""
    raters = sorted({one.rater for one in ratings})
    names = sorted({settled(one.verdict) for one in ratings})
    codes = np.full((len(secret["items"]), len(raters)), -1)
    for one in ratings:
        codes[one.item, raters.index(one.rater)] = names.index(settled(one.verdict))
    items = np.flatnonzero((codes >= 0).sum(axis=1) > 1)
    counts: Floats = (codes[:, :, None] == np.arange(len(names))).sum(axis=1).astype(float)
    if not len(items):
        return []

    def value(rows: Rows) -> float:
        return cohen(codes[items[rows]]) if len(raters) == 2 else alpha(counts[items[rows]])

    [found] = with_interval(value, [secret["items"][item][0] for item in items])
    measure = "Cohen's kappa" if len(raters) == 2 else "Krippendorff's alpha"
    return [{"measure": measure, "raters": len(raters), "items": len(items), "agreement": found}]


def compared(secret: Json, verdicts: Mapping[int, str]) -> list[tuple[str, int, int, str]]:
    """Return (prompt, method, method, verdict) for each pair of answers; "identical" ones were not rated."""
    rows = [(prompt, i, j, "identical") for prompt, i, j in secret["ties"]]
    for item, verdict in verdicts.items():
        prompt, (one, other), _ = secret["items"][item]
        for i, j in ((i, j) for i in one for j in other):
            rows.append((prompt, i, j, verdict) if i < j else (prompt, j, i, OTHER.get(verdict, verdict)))
    return rows


def single(secret: Json, verdicts: Mapping[int, str]) -> dict[int, dict[str, Outcome]]:
    """Return the outcome of each rated answer: {method: {prompt: outcome}}."""
    found: dict[int, dict[str, Outcome]] = {number: {} for number in range(len(secret["systems"]))}
    for item, verdict in verdicts.items():
        prompt, (owners,), _ = secret["items"][item]
        for system in owners:
            found[system][prompt] = OUTCOMES[verdict]
    return found


def _rates(secret: Json, verdicts: Mapping[int, str]) -> list[Json]:
    rows = []
    for number, found in single(secret, verdicts).items():
        rate = share(list(found.values()))
        rows.append({"method": secret["systems"][number]["name"], "yes": rate, "cannot_tell": rate["null"]})
    return rows


def _strengths(secret: Json, verdicts: Mapping[int, str]) -> list[Json]:
    names, rows = [one["name"] for one in secret["systems"]], compared(secret, verdicts)
    if len(names) < 3 or not rows:
        return []

    def value(chosen: Rows) -> Floats:
        wins = np.zeros((len(names), len(names)))
        for _, i, j, verdict in (rows[k] for k in chosen):
            won = {"first": 1.0, "second": 0.0}.get(verdict, 0.5)
            wins[i, j] += won
            wins[j, i] += 1 - won
        return bradley_terry(wins)

    found = with_interval(value, [row[0] for row in rows])
    return [{"method": name, "strength": strength} for name, strength in zip(names, found, strict=True)]


def _two(secret: Json) -> list[tuple[int, int, Json]]:
    names = [one["name"] for one in secret["systems"]]
    return [(i, j, {"first": names[i], "second": names[j]}) for i, j in combinations(range(len(names)), 2)]


def _wins(secret: Json, verdicts: Mapping[int, str]) -> list[Json]:
    results: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for _, i, j, verdict in compared(secret, verdicts):
        results[i, j][verdict] += 1
    rows = []
    for i, j, names in _two(secret):
        counts = results[i, j]
        win, loss = counts["first"], counts["second"]
        found = {"wins": win, "ties": counts["tie"] + counts["bad"], "both_bad": counts["bad"], "losses": loss}
        decided = {"wins_of_decided": portion(win, win + loss), "p": mcnemar(win, loss)}
        rows.append({**names, **found, "identical": counts["identical"], **decided})
    return rows


def _differences(secret: Json, verdicts: Mapping[int, str]) -> list[Json]:
    found, rows = single(secret, verdicts), []
    for i, j, names in _two(secret):
        common = sorted(found[i].keys() & found[j].keys())
        row = compare([found[i][id] for id in common], [found[j][id] for id in common])
        difference = {"value": row["difference"], "low": row["low"], "high": row["high"]}
        rest = {name: row[name] for name in ("first_only", "second_only", "p")}
        rows.append({**names, "pairs": row["pairs"], "difference": difference, **rest})
    return rows
