"""The lines of result files: a prompt with its two answers, or with the reason why it has none."""

from __future__ import annotations

from rain.configs import AlignerConfig
from rain.core.types import Json
from rain.data.datasets import Prompt
from rain.generation import Answer


def answer_record(config: AlignerConfig, prompt: Prompt, rain: Answer, plain: Answer, dtype: str) -> Json:
    """Return the record of an answered prompt.

    Args:
        config: of both answers.
        prompt: of a data set.
        rain: the answer of the method of the settings.
        plain: the greedy one.
        dtype: number format in which the model computed.
    """
    drafts = [draft.as_dict() for draft in rain.drafts]
    return {
        "id": prompt.id,
        "question": prompt.question,
        "method": config.method.method,
        "raina": rain.text,
        "pa": plain.text,
        "finish": rain.finish,
        "moves": [commit._asdict() for commit in rain.commits],
        "cost": {"rain": rain.cost, "plain": plain.cost},
        "dtype": dtype,
        **({"value": rain.value, "drafts": drafts} if drafts else {}),
        **prompt.extra,
        **_origin(config),
    }


def error_record(config: AlignerConfig, prompt: Prompt, reason: str) -> Json:
    """Return the record of a prompt that has no answer."""
    return {"id": prompt.id, "question": prompt.question, "error": reason, **prompt.extra, **_origin(config)}


def _origin(config: AlignerConfig) -> Json:
    """Return the fields that every record ends with: what made it."""
    goal = {"target": config.evaluation.target} if config.evaluation.target else {}
    return {**goal, "model": config.model.name, "seed": config.prompting.seed, "config": config.hash}
