"""AdvBench behaviours with adversarial suffixes; its files are in ``adv/``."""

from rain.core.config import RainConfig
from rain.data.readers import ADV
from rain.tasks.hh import TASK as HH
from rain.tasks.task import Task, data_folder

TASK = Task(
    name="adv",
    folder=data_folder("adv"),
    reader=ADV,
    dataset="demo.json",
    config=RainConfig(min_visits=5, candidate_temperature=2.0, max_draws=19),
    template="../HH/templates/harmless_letters.txt",
    stop_strings=("USER:",),
    aim=HH.aim,
    presets={"smollm2": {**HH.presets["smollm2"], "templates": "../HH/templates/harmless_words.txt"}},
)
