"""Harmlessness and helpfulness on red-teaming prompts: ``python allocation.py --help``."""

import sys
from pathlib import Path

from rain.core.config import RainConfig
from rain.data.readers import HH
from rain.launch import main
from rain.tasks.task import Task

TASK = Task(
    name="hh",
    folder=Path(__file__).parent,
    reader=HH,
    dataset="demo.jsonl",
    config=RainConfig(),
    template="templates/harmless_letters.txt",
    stop_strings=("\n\nHuman:", "\nHuman:"),
    presets={
        "smollm2": {
            "max_new_tokens": 96,
            "templates": "templates/harmless_words.txt",
            "votes": "soft",
            "offset": -1.430,
            "scale": 1.650,
        }
    },
)

if __name__ == "__main__":
    sys.exit(main(TASK))
