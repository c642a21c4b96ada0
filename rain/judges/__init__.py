"""Judges: who decides whether an answer is harmless, helpful, true or positive, and whether an attack succeeded."""

from rain.judges.base import Decision, Judge, JudgeSettings, Query, Unanswered, Verdict, open_judge
from rain.judges.queries import Run, load_run, queries_for
from rain.judges.scoring import Summary, read_scores, score_path, score_run

__all__ = [
    "Decision",
    "Judge",
    "JudgeSettings",
    "Query",
    "Run",
    "Summary",
    "Unanswered",
    "Verdict",
    "load_run",
    "open_judge",
    "queries_for",
    "read_scores",
    "score_path",
    "score_run",
]
