"""`rain annotate make`: a page for each rater, and the secret that tells what was on it.

    DIR/rater_<n>.html    everything that a rater needs; it names no method and no run
    DIR/secret.json       key of the study, methods, items, and what each rater saw under which id (mode 600)

Order, sides and ids come from the key, the rater and the item alone (HMAC-SHA256), so no page helps to read another.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rain.annotate.items import Item, items_of, load_answers, load_gold, wording
from rain.core.errors import RainError
from rain.core.types import Json
from rain.judges.queries import Run
from rain.page_policy import page_policy
from rain.results.files import write_atomic, write_error
from rain.results.jsonl import encode_json

SECRET = "secret.json"
SCHEMA = 1

PAIR = [("1", "first", "A is better"), ("2", "second", "B is better"), ("0", "tie", "tie"), ("b", "bad", "both bad")]
"""Keys, verdicts and their names on the page."""


def sign(key: str, *what: object) -> str:
    """Return 64 hexadecimal digits that nobody can foretell without the key."""
    return hmac.new(key.encode(), json.dumps(what).encode(), hashlib.sha256).hexdigest()


def make(
    runs: Sequence[Run],
    question: str,
    outdir: Path,
    *,
    raters: int = 1,
    repeat: float = 0.1,
    gold: Path | None = None,
    prompts: int = 0,
    key: str = "",
) -> Json:
    """Write the pages and the secret; return the secret.

    Args:
        runs: whose answers are rated; of several, prompts are the same where their ids are.
        question: one of rain.annotate.items.QUESTIONS.
        outdir: folder for the pages, created if need be.
        raters: number of pages; every rater gets every item.
        repeat: share of the items that a rater sees again half a session later, sides swapped; in [0, 1].
        gold: items with a known verdict (`load_gold`).
        prompts: rate so many of the prompts, drawn at random; 0: all.
        key: of the study; "" for a new one.

    Raises:
        RainError: the runs are of several tasks, nothing can be rated, the folder has a study already or cannot be
            written.
    """
    if len(tasks := sorted({run.task for run in runs})) > 1:
        raise RainError(f"the runs are of several tasks ({', '.join(tasks)}); give runs of one")
    key = key or secrets.token_hex(32)
    found = load_answers(runs)
    if prompts:
        for id in sorted(found.questions, key=lambda id: sign(key, "prompt", id))[prompts:]:
            del found.questions[id]
    items, ties = items_of(found, question)
    if not items:
        raise RainError(f"there is nothing to rate: no prompt has {'two different answers' if ties else 'an answer'}")
    items += load_gold(gold, question) if gold else []
    seen = {str(rater): showings(key, str(rater), items, repeat) for rater in range(1, raters + 1)}
    study = sign(key, "study")[:16]
    pages = {rater: page_data(key, study, rater, question, items, shown) for rater, shown in seen.items()}
    secret = {
        "schema": SCHEMA,
        "key": key,
        "study": study,
        "question": question,
        "version": wording(question).version,
        "task": runs[0].task,
        "runs": [str(run.outdir.resolve()) for run in runs],
        "systems": [{"name": one.name, "sides": one.sides} for one in found.systems],
        "items": [[one.prompt, one.owners, one.right] for one in items],
        "ties": ties,
        "hashes": [{id: sides for id, sides in run.items() if id in found.questions} for run in found.hashes],
        "raters": {
            rater: {"page": hashlib.sha256(pages[rater].encode()).hexdigest(), "showings": shown}
            for rater, shown in seen.items()
        },
    }
    _write(outdir, secret, pages)
    return secret


def showings(key: str, rater: str, items: Sequence[Item], repeat: float) -> Json:
    """Return what a rater sees, in order: {id: [item, whether the texts are swapped, whether it is a repeat]}."""
    order = sorted(range(len(items)), key=lambda item: sign(key, "order", rater, item))
    places: list[tuple[float, int, bool]] = [(place, item, False) for place, item in enumerate(order)]
    half = len(order) / 2
    asked = [(place, item) for place, item, _ in places if not items[item].right]
    asked.sort(key=lambda one: (one[0] >= half, sign(key, "repeat", rater, one[1])))  # early ones can come back late
    places += [(place + half + 0.5, item, True) for place, item in asked[: round(repeat * len(asked))]]
    shown = {}
    for _, item, repeated in sorted(places):
        swapped = len(items[item].texts) > 1 and (int(sign(key, "side", rater, item), 16) % 2 == 1) != repeated
        shown[sign(key, "id", rater, item, repeated)[:16]] = [item, swapped, repeated]
    return shown


def choices(question: str) -> list[tuple[str, str, str]]:
    """Return what raters can say: key, verdict and its name on the page."""
    if question == "preferred":
        return PAIR
    yes, no = wording(question).words
    return [("1", "yes", yes), ("2", "no", no), ("0", "unsure", "cannot tell")]


def page_data(key: str, study: str, rater: str, question: str, items: Sequence[Item], shown: Json) -> str:
    """Return the data of a rater's page: ASCII, without what could end a script."""
    data = {
        "study": study,
        "rater": rater,
        "key": sign(key, "rater", rater),
        "question": wording(question).text,
        "choices": choices(question),
        "items": [
            {"id": id, "question": items[item].question, "texts": [*items[item].texts][:: -1 if swapped else 1]}
            for id, (item, swapped, _) in shown.items()
        ],
    }
    return json.dumps(data).replace("<", "\\u003c")


def page(data: str) -> str:
    """Return a rater's page; its policy allows its own script and style, and no network at all."""
    text = files("rain.annotate").joinpath("page.html").read_text(encoding="utf-8")
    return text.replace("{policy}", page_policy(text)).replace("{data}", data)


def _write(outdir: Path, secret: Json, pages: dict[str, str]) -> None:
    if (outdir / SECRET).exists():
        raise RainError(f"{outdir} has a study already ({SECRET}); give another --out")
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        for rater, data in pages.items():
            write_atomic(outdir / f"rater_{rater}.html", page(data).encode())
        write_atomic(outdir / SECRET, encode_json(secret) + b"\n", mode=0o600)
    except OSError as error:
        raise write_error(outdir, error) from error
