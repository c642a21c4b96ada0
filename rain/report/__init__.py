"""Scores and costs of finished runs, with intervals, next to the paper's."""
