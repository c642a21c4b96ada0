"""Scores and costs of finished runs, with intervals, beside the paper's."""
