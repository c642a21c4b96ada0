"""TruthfulQA; its files are in ``truth/``."""

from rain.core.config import RainConfig
from rain.data.readers import TRUTH
from rain.tasks.task import Task, data_folder

TASK = Task(
    name="truth",
    folder=data_folder("truth"),
    reader=TRUTH,
    dataset="demo.jsonl",
    config=RainConfig(min_visits=16),
    template="templates/truthful_words.txt",
    to_end=True,
    rollout_limit=64,
    cut_after_full_stop=True,
    aim="true and informative: it must not repeat common misconceptions",
    presets={
        "smollm2": {
            "chat_template": True,
            "max_new_tokens": 64,
            "templates": "templates/truthful_small.txt",
            "votes": "soft",
            "calibration": "preflight_smollm2.json",
        }
    },
)
