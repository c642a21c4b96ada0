"""TruthfulQA: ``python allocation.py --help``."""

import sys
from pathlib import Path

from rain.core.config import RainConfig
from rain.data.readers import TRUTH
from rain.launch import main
from rain.tasks.task import Task

TASK = Task(
    name="truth",
    folder=Path(__file__).parent,
    reader=TRUTH,
    dataset="demo.jsonl",
    config=RainConfig(min_visits=16),
    template="templates/truthful_words.txt",
    to_end=True,
    rollout_limit=64,
    cut_after_full_stop=True,
    presets={
        "smollm2": {
            "chat_template": True,
            "max_new_tokens": 64,
            "templates": "templates/truthful_small.txt",
            "votes": "soft",
            "offset": -0.361,
            "scale": 0.287,
        }
    },
)

if __name__ == "__main__":
    sys.exit(main(TASK))
