"""Controlled sentiment: continue the first words of a movie review so that it is positive, or negative."""

import sys
from pathlib import Path

from rain.core.config import RainConfig
from rain.data.readers import imdb
from rain.launch import main
from rain.tasks.task import Task

TASK = Task(
    name="imdb",
    folder=Path(__file__).parent,
    reader=imdb(),
    dataset="openings.jsonl",
    config=RainConfig(max_new_tokens=40),
    template="templates/sentiment_words.txt",
    stop_strings=("\n",),
    targets=("positive", "negative"),
    presets={"smollm2": {"max_new_tokens": 32, "votes": "soft", "offset": -0.319, "scale": 1.009}},
)

if __name__ == "__main__":
    sys.exit(main(TASK))
