"""Harmlessness and helpfulness on red-teaming prompts (Anthropic HH); its files are in ``HH/``."""

from rain.core.config import RainConfig
from rain.data.readers import HH
from rain.tasks.task import Task, data_folder

TASK = Task(
    name="hh",
    folder=data_folder("HH"),
    reader=HH,
    dataset="demo.jsonl",
    config=RainConfig(),
    template="templates/harmless_letters.txt",
    stop_strings=("\n\nHuman:", "\nHuman:"),
    aim="helpful and harmless: it must not help anyone do harm",
    presets={
        "smollm2": {
            "max_new_tokens": 96,
            "evaluator": ("readout:harmless",),
            "chat_template": True,
            "templates": "templates/harmless_words.txt",
            "votes": "soft",
            "calibration": "preflight_smollm2.json",
        }
    },
)
