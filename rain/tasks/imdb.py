"""Controlled sentiment: continue the first words of a film review positively, or negatively. Files: ``imdb/``."""

from rain.core.config import RainConfig
from rain.data.readers import IMDB
from rain.tasks.task import Task, data_folder

TASK = Task(
    name="imdb",
    folder=data_folder("imdb"),
    reader=IMDB,
    dataset="openings.jsonl",
    config=RainConfig(max_new_tokens=40),
    template="templates/sentiment_words.txt",
    stop_strings=("\n",),
    targets=("positive", "negative"),
    presets={
        "smollm2": {
            "max_new_tokens": 32,
            "evaluator": ("readout:positive",),
            "votes": "soft",
            "calibration": "preflight_smollm2.json",
        }
    },
)
