"""A run's answers, searches and verdicts in the formats of other programs."""
