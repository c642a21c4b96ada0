"""Prompts: rows of files and data sets, and what a row means to a task."""
