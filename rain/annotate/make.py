"""`rain annotate make`: a page for each rater, and the secret that tells what was on it.

    DIR/rater_<n>.html    everything that a rater needs; it names no method and no run
    DIR/secret.json       key of the study, methods, items, and what each rater saw under which id (mode 600)

Order, sides and ids come from the key, the rater and the item alone (HMAC-SHA256), so no page helps to read another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from rain.annotate.items import (
    PAIR_VERDICTS,
    SINGLE_VERDICTS,
    Item,
    hashes,
    items_of,
    load_gold,
    load_systems,
    wording,
)
from rain.core.errors import RainError
from rain.judges.queries import Run
from rain.results.files import write_atomic, write_error
from rain.results.jsonl import encode_json

SECRET = "secret.json"
SCHEMA = 1
KEYS = "120b"
"""What raters press for each verdict, in the order of PAIR_VERDICTS and SINGLE_VERDICTS."""

Json = dict[str, Any]


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
    if len({run.task for run in runs}) > 1:
        raise RainError(f"the runs are of several tasks ({', '.join(sorted({run.task for run in runs}))}); give one")
    key = key or secrets.token_hex(32)
    systems, questions = load_systems(runs)
    if prompts:
        drawn = sorted(questions, key=lambda id: sign(key, "prompt", id))[:prompts]
        questions = {id: questions[id] for id in drawn}
    items, ties = items_of(systems, questions, question)
    if not items:
        raise RainError(f"there is nothing to rate: no prompt has {'two different answers' if ties else 'an answer'}")
    items += load_gold(gold, question) if gold else []
    seen = {str(rater): showings(key, rater, items, repeat) for rater in range(1, raters + 1)}
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
        "systems": [{"name": one.name, "sides": one.sides} for one in systems],
        "items": [[one.prompt, one.owners, one.right] for one in items],
        "ties": ties,
        "hashes": [{id: found for id, found in hashes(run).items() if id in questions} for run in runs],
        "raters": {
            rater: {"page": hashlib.sha256(pages[rater].encode()).hexdigest(), "showings": shown}
            for rater, shown in seen.items()
        },
    }
    _write(outdir, secret, pages)
    return secret


def showings(key: str, rater: int, items: Sequence[Item], repeat: float) -> Json:
    """Return what a rater sees, in order: {id: [item, whether the texts are swapped, whether it is a repeat]}."""
    order = sorted(range(len(items)), key=lambda item: sign(key, "order", rater, item))
    drawn = sorted(
        (item for item in order if not items[item].right), key=lambda item: sign(key, "repeat", rater, item)
    )
    places: list[tuple[float, int, bool]] = [(place, item, False) for place, item in enumerate(order)]
    again = drawn[: round(repeat * len(drawn))]
    places += [(order.index(item) + len(order) / 2 + 0.5, item, True) for item in again]
    shown = {}
    for _, item, repeated in sorted(places):
        swapped = len(items[item].texts) > 1 and (int(sign(key, "side", rater, item), 16) % 2 == 1) != repeated
        shown[sign(key, "id", rater, item, repeated)[:16]] = [item, swapped, repeated]
    return shown


def page_data(key: str, study: str, rater: str, question: str, items: Sequence[Item], shown: Json) -> str:
    """Return the data of a rater's page: ASCII, without what could end a script."""
    asked = wording(question)
    verdicts, names = SINGLE_VERDICTS, (*asked.words, "cannot tell")
    if question == "preferred":
        verdicts, names = PAIR_VERDICTS, ("A is better", "B is better", "tie", "both bad")  # type: ignore[assignment]
    data = {
        "study": study,
        "rater": rater,
        "key": sign(key, "rater", rater),
        "question": asked.text,
        "choices": [list(choice) for choice in zip(KEYS, verdicts, names)],  # noqa: B905
        "items": [
            {"id": id, "question": items[item].question, "texts": [*items[item].texts][:: -1 if swapped else 1]}
            for id, (item, swapped, _) in shown.items()
        ],
    }
    return json.dumps(data).replace("<", "\\u003c")


def page(data: str) -> str:
    """Return a rater's page; its policy allows its own script and style, and no network at all."""
    text = files("rain.annotate").joinpath("page.html").read_text(encoding="utf-8")
    allowed = "; ".join(f"{tag}-src '{_digest(text, tag)}'" for tag in ("script", "style"))
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    return text.replace("{policy}", policy).replace("{data}", data)


def _digest(text: str, tag: str) -> str:
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", text, flags=re.S)
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _write(outdir: Path, secret: Json, pages: dict[str, str]) -> None:
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(outdir / SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise RainError(f"{outdir} has a study already ({SECRET}); give another --out") from error
    except OSError as error:
        raise write_error(outdir, error) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(encode_json(secret) + b"\n")
    for rater, data in pages.items():
        write_atomic(outdir / f"rater_{rater}.html", page(data).encode())
