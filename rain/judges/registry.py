"""Judges by name, imported when they are asked for."""

from __future__ import annotations

from importlib import import_module

from rain.core.errors import RainError
from rain.judges.base import Judge, JudgeConfig

JUDGES = "openai:MODEL, hf:MODEL, keywords:LIST, similarity:ENCODER, readout:FILE, ratings:FILE or fluency:MODEL"
OPENERS = {
    "openai": ("openai_judge", "OpenAIJudge"),
    "hf": ("hf_judge", "open_hf_judge"),
    "keywords": ("keywords", "KeywordJudge"),
    "similarity": ("similarity", "SimilarityJudge"),
    "readout": ("readout_judge", "ReadOutJudge"),
    "fluency": ("fluency", "FluencyJudge"),
    "ratings": ("ratings", "RatingsJudge"),
}
"""For each kind a module of this package, and what in it makes a judge of (the name after the colon, the config)."""


def open_judge(name: str, config: JudgeConfig) -> Judge:
    """Return the judge called `name`, one of JUDGES; RainError for any other name."""
    kind, _, what = name.partition(":")
    if kind not in OPENERS or not what:
        raise RainError(f"unknown judge {name!r}; it must be {JUDGES}")
    module, opener = OPENERS[kind]
    judge: Judge = getattr(import_module(f"rain.judges.{module}"), opener)(what, config)
    return judge
