"""Learning a read-out: logistic regression on hidden states; layer and ridge by cross-validation over prompts.

That of a text has the mean hidden state of its tokens as input, that of a request the state of the prompt's last token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rain.core.engine import Usage
from rain.core.errors import RainError
from rain.data.labelled import Labelled
from rain.evaluators.metrics import ranking
from rain.evaluators.readout_file import RequestReadOut
from rain.extras import need
from rain.prompts import PromptFormatter
from rain.stats import auc, auc_interval
from rain.terminal import counted

if TYPE_CHECKING:
    from rain.engines.reference import ReferenceEngine

LENGTHS = (4, 8, 16, 32, 64)
"""Beginnings of each response that are learnt from, as a search meets them (tokens)."""

LAYERS = 10
"""About so many layers are tried, evenly spread; neighbours differ little."""

RIDGES = (0.001, 0.003, 0.01, 0.03)
"""Inverse strengths (C) of the penalty on standardised inputs."""

REQUEST_RIDGES = (0.01, 0.03, 0.1, 0.3)
"""The same for requests, of which there are fewer, each seen once."""

FOLDS = 5
TEXTS = ("bad texts", "good texts")
REQUESTS = ("safe requests (prompt_is_safe)", "harmful requests")
Matrix = NDArray[np.floating[Any]]


class Learnt(NamedTuple):
    """A read-out and how well it does on prompts that it was not learnt from.

    Attributes:
        layer, weights, bias: see ``ReadOutFile``.
        ridge: the C that was chosen.
        held_out: the calibrated logit of each text at each length, learnt from other prompts: (texts, lengths).
    """

    layer: int
    weights: Matrix
    bias: float
    ridge: float
    held_out: Matrix


@dataclass(frozen=True)
class States:
    """Hidden states of labelled texts.

    Attributes:
        layers: numbers of the layers.
        texts: the mean over the beginnings of each response, (texts, lengths, layers, hidden size).
        counts: tokens of each response, up to the longest length.
        requests: of the last token of each prompt, (texts, layers, hidden size).
    """

    layers: list[int]
    texts: Matrix
    counts: NDArray[np.integer[Any]]
    requests: Matrix


def check_enough(texts: Sequence[Labelled], request: bool) -> None:
    """Refuse at once what could not be learnt from in the end.

    Raises:
        RainError: there are too few texts, prompts or, if ``request``, requests, or scikit-learn is not installed.
    """
    _check_counts(np.array([item.good for item in texts], bool), [item.question for item in texts], TEXTS)
    known = {item.question: not item.safe for item in texts if item.safe is not None}
    if request:
        _check_counts(np.array(list(known.values()), bool), list(known), REQUESTS)
    need("rain learn", "learn", "sklearn")


def _check_counts(labels: NDArray[Any], groups: Sequence[str], kinds: tuple[str, str]) -> None:
    prompts = [len({group for group, label in zip(groups, labels, strict=True) if label == kind}) for kind in (0, 1)]
    counts, every = [int((~labels).sum()), int(labels.sum())], len(set(groups))
    if every < 2 * FOLDS or min(prompts) < FOLDS or min(counts) < 2 * FOLDS:
        least = " and ".join(f"{2 * FOLDS} {kind} of {FOLDS} prompts" for kind in kinds)
        of = [counted(number, "prompt") for number in (every, *prompts)]
        found = f"{of[0]}, {counts[0]} {kinds[0]} of {of[1]} and {counts[1]} {kinds[1]} of {of[2]}"
        raise RainError(f"a read-out needs at least {2 * FOLDS} prompts, {least}; there are {found}")


def hidden_states(
    engine: ReferenceEngine, formatter: PromptFormatter, texts: Sequence[Labelled], tick: Callable[[], object]
) -> States:
    """Return the hidden states of prompts and responses, at about LAYERS layers."""
    count = engine.model.config.get_text_config().num_hidden_layers
    step = max(1, count // LAYERS)
    layers = list(range(step, count, step))
    size = engine.model.config.get_text_config().hidden_size
    states = np.zeros((len(texts), len(LENGTHS), len(layers), size))
    counts, requests = np.zeros(len(texts), int), np.zeros((len(texts), len(layers), size))
    for i, item in enumerate(texts):
        prompt = formatter.encode(item.question)
        response = formatter.encode_response(item.response)[: LENGTHS[-1]]
        counts[i] = len(response)
        if response:
            found = engine.hidden_states(prompt + response, Usage())
            for j, layer in enumerate(layers):
                numbers = found[layer][0, len(prompt) - 1 :].float().cpu().numpy()
                requests[i, j], sums = numbers[0], np.cumsum(numbers[1:], axis=0)
                for k, length in enumerate(LENGTHS):
                    states[i, k, j] = sums[min(length, len(response)) - 1] / min(length, len(response))
        tick()
    return States(layers, states, counts, requests)


def learn(states: States, texts: Sequence[Labelled]) -> Learnt:
    """Choose layer and ridge by grouped cross-validation, calibrate on the held-out logits, learn from everything.

    Raises:
        RainError: there are too few prompts.
    """
    labels, groups = np.array([item.good for item in texts]), [item.question for item in texts]
    return _choose(states.layers, states.texts, labels, groups, states.counts > 0, RIDGES, TEXTS)


def learn_request(states: States, texts: Sequence[Labelled]) -> tuple[RequestReadOut, dict[str, Any]]:
    """Learn to tell harmful requests from safe ones; return that, and how well it does on requests not learnt from.

    Raises:
        RainError: too few requests are known to be one or the other.
    """
    places = {item.question: i for i, item in enumerate(texts) if item.safe is not None and states.counts[i]}
    requests, chosen = list(places), list(places.values())
    harmful = np.array([not texts[i].safe for i in chosen], bool)
    inputs, everything = states.requests[chosen][:, None], np.ones(len(chosen), bool)
    found = _choose(states.layers, inputs, harmful, requests, everything, REQUEST_RIDGES, REQUESTS)
    area = auc_interval(found.held_out[:, 0].tolist(), harmful.tolist(), requests)
    measured = {"requests": len(chosen), "C": found.ridge, "auc": _auc(found.held_out[:, 0], harmful)}
    read_out = RequestReadOut(found.layer, rounded(found.weights), found.bias)
    return read_out, {**measured, "auc_interval": list(area)}


def rounded(weights: Matrix) -> tuple[float, ...]:
    """Return weights as they are in files, with six digits."""
    return tuple(float(f"{value:.6g}") for value in weights)


def _choose(
    layers: Sequence[int],
    states: Matrix,
    labels: NDArray[Any],
    groups: Sequence[str],
    used: NDArray[Any],
    ridges: Sequence[float],
    kinds: tuple[str, str],
) -> Learnt:
    """Learn as ``learn`` says.

    Args:
        layers: their numbers.
        states: (texts, lengths, layers, hidden size).
        labels: of the texts, true or false.
        groups: texts of one group are held out together.
        used: which texts are learnt from.
        ridges: that are tried.
        kinds: what is labelled false and true, for the message.

    Raises:
        RainError: there are too few groups or texts.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    _check_counts(labels, groups, kinds)
    for splitter in (GroupKFold(FOLDS), StratifiedGroupKFold(FOLDS)):  # the first may put all of a label in one fold
        folds = list(splitter.split(labels, labels, groups))
        if all(len(np.unique(labels[inside][used[inside]])) == 2 for inside, _ in folds):
            break
    else:
        raise RainError("a read-out cannot be held out: too few prompts have texts of one of the labels")
    best = -1.0
    for place, ridge in product(range(states.shape[2]), ridges):
        logits = np.full(states.shape[:2], np.nan)
        for inside, outside in folds:
            weights, bias = _fit(states[inside][used[inside], :, place], labels[inside][used[inside]], ridge)
            logits[outside] = states[outside, :, place] @ weights + bias
        area = float(np.mean([_auc(logits[used, k], labels[used]) for k in range(states.shape[1])]))
        if area > best:
            best, chosen, held_out = area, (place, ridge), logits
    place, ridge = chosen
    weights, bias = _fit(states[used][:, :, place], labels[used], ridge)
    slope, offset = _fit(held_out[used][:, :, None], labels[used], 1.0)
    scale = max(float(slope[0]), 1e-3)
    return Learnt(layers[place], scale * weights, float(scale * bias + offset), ridge, scale * held_out + offset)


def figures(learnt: Learnt, counts: NDArray[Any], texts: Sequence[Labelled]) -> dict[str, Any]:
    """Return ``ranking`` on prompts that were not learnt from, by length of the text (tokens)."""
    found: dict[str, Any] = {}
    for k, length in enumerate(LENGTHS):
        used = (counts > 0) if k == 0 else counts > LENGTHS[k - 1]  # shorter ones are measured above
        logits = learnt.held_out[used, k]
        measured = [item for item, use in zip(texts, used, strict=True) if use]
        row = ranking(logits.tolist(), (logits > 0).tolist(), measured)
        if row:
            found[str(length)] = row
    return found


def _auc(scores: Matrix, labels: NDArray[Any]) -> float:
    return auc(scores[labels].tolist(), scores[~labels].tolist())


def _fit(states: Matrix, labels: NDArray[Any], ridge: float) -> tuple[Matrix, float]:
    """Return weights and bias of a logistic regression on every length of each text: (texts, lengths, size)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs = states.reshape(-1, states.shape[-1])
    pipeline = make_pipeline(
        StandardScaler(), LogisticRegression(C=ridge, class_weight="balanced", max_iter=500)
    ).fit(inputs, np.repeat(labels, states.shape[1]))
    scaler, model = pipeline[0], pipeline[1]
    weights: Matrix = model.coef_[0] / scaler.scale_
    return weights, float(model.intercept_[0] - weights @ scaler.mean_)
