"""Learning a read-out: logistic regression on mean hidden states; layer and ridge by cross-validation over prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rain.core.engine import Usage
from rain.core.errors import RainError
from rain.data.labelled import Labelled
from rain.engines.reference import ReferenceEngine
from rain.evaluators.metrics import ranking
from rain.prompts import PromptFormatter
from rain.stats import auc

LENGTHS = (4, 8, 16, 32, 64)
"""Beginnings of each response that are learnt from, as a search meets them (tokens)."""

LAYERS = 10
"""About so many layers are tried, evenly spread; neighbours differ little."""

RIDGES = (0.001, 0.003, 0.01, 0.03)
"""Inverse strengths (C) of the penalty on standardised inputs."""

FOLDS = 5
Matrix = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Learnt:
    """A read-out and how well it does on prompts that it was not learnt from.

    Attributes:
        layer, weights, bias: see ``ReadOutFile``.
        ridge: the C that was chosen.
        held_out: the calibrated logit of each text at each length, learnt from other prompts: (texts, lengths).
        counts: tokens of each text, up to the longest length.
    """

    layer: int
    weights: Matrix
    bias: float
    ridge: float
    held_out: Matrix
    counts: NDArray[np.integer[Any]]


def mean_states(
    engine: ReferenceEngine, formatter: PromptFormatter, texts: Sequence[Labelled], tick: Callable[[], object]
) -> tuple[Matrix, NDArray[np.integer[Any]], list[int]]:
    """Return the mean hidden states of the beginnings of each response.

    Returns:
        states (texts, lengths, layers, hidden size), tokens of each response up to the longest length, the layers.
    """
    count = engine.model.config.get_text_config().num_hidden_layers
    step = max(1, count // LAYERS)
    layers = list(range(step, count, step))
    states = np.zeros((len(texts), len(LENGTHS), len(layers), engine.model.config.get_text_config().hidden_size))
    counts = np.zeros(len(texts), int)
    for i, item in enumerate(texts):
        prompt = formatter.encode(item.question)
        response = formatter.encode_response(item.response)[: LENGTHS[-1]]
        counts[i] = len(response)
        if response:
            found = engine.hidden_states(prompt + response, Usage())
            for j, layer in enumerate(layers):
                sums = np.cumsum(found[layer][0, len(prompt) :].float().cpu().numpy(), axis=0)
                for k, length in enumerate(LENGTHS):
                    states[i, k, j] = sums[min(length, len(response)) - 1] / min(length, len(response))
        tick()
    return states, counts, layers


def learn(states: Matrix, counts: NDArray[np.integer[Any]], layers: Sequence[int], texts: Sequence[Labelled]) -> Learnt:
    """Choose layer and ridge by grouped cross-validation, calibrate on the held-out logits, learn from everything.

    Raises:
        RainError: scikit-learn is not installed, or there are too few prompts.
    """
    try:
        from sklearn.model_selection import GroupKFold
    except ImportError as error:
        raise RainError("learning a read-out needs scikit-learn: pip install -e \".[learn]\"") from error
    labels, groups = np.array([item.good for item in texts]), np.array([item.question for item in texts])
    if len(set(groups)) < 2 * FOLDS or min(labels.sum(), (~labels).sum()) < 2 * FOLDS:
        raise RainError(f"a read-out needs at least {2 * FOLDS} prompts and {2 * FOLDS} texts of each class")
    folds, used = list(GroupKFold(FOLDS).split(labels, groups=groups)), counts > 0
    best: tuple[float, int, float, Matrix] | None = None
    for j in range(len(layers)):
        for ridge in RIDGES:
            held_out = np.full(states.shape[:2], np.nan)
            for inside, outside in folds:
                model = _fit(states[inside][used[inside], :, j], labels[inside][used[inside]], ridge)
                held_out[outside] = states[outside, :, j] @ model[0] + model[1]
            area = np.mean([_auc(held_out[used, k], labels[used]) for k in range(len(LENGTHS))])
            if best is None or area > best[0]:
                best = float(area), j, ridge, held_out
    assert best is not None
    _, j, ridge, held_out = best
    weights, bias = _fit(states[used][:, :, j], labels[used], ridge)
    slope, offset = _fit(held_out[used][:, :, None], labels[used], 1.0)
    scale = max(float(slope[0]), 1e-3)
    return Learnt(
        layers[j], scale * weights, float(scale * bias + offset), ridge, scale * held_out + offset, counts
    )


def figures(learnt: Learnt, texts: Sequence[Labelled]) -> dict[str, Any]:
    """Return ``ranking`` on prompts that were not learnt from, by length of the text (tokens)."""
    found: dict[str, Any] = {}
    for k, length in enumerate(LENGTHS):
        used = (learnt.counts > 0) if k == 0 else learnt.counts > LENGTHS[k - 1]  # shorter ones are measured above
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
