"""Settings: names are known, files are read, later layers win, and the hash names what is aligned."""

from __future__ import annotations

import json
import pickle
import re

import pytest
from support.tiny_task import LETTERS, ROOT, make_task, saved

from rain.core.errors import RainError
from rain.evaluators.labels import EvaluationConfig
from rain.evaluators.registry import describe
from rain.evaluators.templates import Template
from rain.flags import build
from rain.launch import parse
from rain.pool.worker import WorkerArgs
from rain.serve.config import ServeConfig
from rain.settings import CONFIGS, make_settings, template_path
from rain.tasks import load, names

HH = load("hh")
HARMLESS = Template.from_file(HH.path(HH.template))
OTHER_VALUES = {"engine": "reference", "modelname": "x", "dtype": "float32", "quantization": "4bit", "votes": "soft"}
OTHER_VALUES |= {"max_batch_tokens": 7, "cache_tokens": 7, "method": "greedy", "budget": "tokens=7", "early_share": 0.1}
OTHER_VALUES |= {"seed": 7, "encoder": "x", "preset": "none", "dataset": "x.jsonl", "s": 1, "e": 7, "outdir": "x"}
OTHER_VALUES |= {"nump": 7, "gpu_share": 7, "concurrency": 7, "launcher": "ray", "skip_bad": True, "verbose": True}
OTHER_VALUES |= {"device_map": "auto", "offset": 0.1, "scale": 0.1, "invert": True, "max_simulations": 7}
OTHER_VALUES |= {"similarity_update": False, "token_set_lengths": [1, 3], "max_new_tokens": 7}
NOT_HASHED = {*"max_batch_tokens cache_tokens device_map dataset s e outdir nump concurrency launcher".split()}
NOT_HASHED |= {"gpu_share", "skip_bad", "verbose", "preset"}
GIVEN = {"modelname": "none", "templates": str(HH.path(HH.template))}


def hashed(task=HH, **given):
    return make_settings(task, {**GIVEN, **given}).aligner.hash


@pytest.fixture
def calibration(tmp_path):
    """A function that writes a calibration, perhaps of some evaluators, and returns its path."""

    def write(*evaluators):
        path = tmp_path / "cal.json"
        path.write_text(json.dumps({"offset": 0.7, "scale": 3.0, **({"evaluators": evaluators} if evaluators else {})}))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("max_new_token", "'max_new_token'.*'max_new_tokens'"),
        ("vote", "'vote'.*'votes'"),
        ("model", "'model'.*'modelname'"),
        ("xyzzy", "'xyzzy'$"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(name, said):
    with pytest.raises(RainError, match=said):
        make_settings(HH, {name: 24})


def test_a_calibration_file_is_read_and_used(calibration, tmp_path):
    path = calibration()
    evaluation = make_settings(HH, {**GIVEN, "calibration": path, "votes": "soft"}).aligner.evaluation
    assert evaluation == EvaluationConfig(votes="soft", offset=0.7, scale=3.0)
    assert make_settings(HH, {**GIVEN, "calibration": path, "scale": 2.0}).aligner.evaluation.scale == 2.0
    with pytest.raises(RainError, match=r"none\.json"):
        make_settings(HH, {"calibration": str(tmp_path / "none.json")})


def test_a_calibration_that_is_given_replaces_that_of_the_preset(calibration):
    assert make_settings(HH, {"evaluator": ("labels",)}).aligner.evaluation.offset not in (0.0, 0.7)
    assert make_settings(HH, {"calibration": calibration()}).aligner.evaluation.offset == 0.7
    assert make_settings(HH, {"calibration": ""}).aligner.evaluation.offset == 0.0


def test_a_calibration_of_the_presets_read_out_keeps_the_read_out(calibration):
    plain = make_settings(HH, {}).aligner
    path = calibration(*map(describe, plain.evaluators))
    for given in ({}, {"evaluator": ("readout:harmless",)}):
        aligner = make_settings(HH, {"calibration": path, **given}).aligner
        assert (aligner.evaluators, aligner.prompting.chat_template) == (plain.evaluators, True)
        assert (aligner.evaluation.offset, aligner.evaluation.scale) == (0.7, 3.0)


def test_a_calibration_of_label_words_among_others_is_refused_with_the_reason(calibration):
    names = ("labels", "fluency")
    with pytest.raises(RainError, match="--evaluator labels alone"):
        make_settings(HH, {"calibration": calibration(*names), "evaluator": names})


def test_an_engine_that_cannot_read_hidden_states_is_told_before_a_model_is_loaded():
    with pytest.raises(RainError, match="--engine vllm cannot read"):
        make_settings(HH, {"engine": "vllm", "evaluator": ("readout:harmless",), "chat_template": True})
    for engine, said in (("vllm", "read-out is not used, since --engine vllm"), ("hf", "paper's settings)")):
        assert said in make_settings(HH, {"engine": engine}).preset_notice()


@pytest.mark.parametrize(("task", "chat"), [("hh", True), ("adv", True), ("truth", True), ("imdb", False)])
def test_every_read_out_that_comes_with_the_default_model_suits_its_task_alone(task, chat):
    name = {"truth": "informative", "imdb": "positive"}.get(task, "harmless")
    given = {"preset": "none", "evaluator": (f"readout:{name}",)}
    [found] = make_settings(load(task), {**given, "chat_template": chat}).aligner.evaluators
    assert (found.name, found.model) == (name, "smollm2")
    with pytest.raises(RainError, match=name):
        make_settings(load(task), {**given, "chat_template": not chat})
    with pytest.raises(RainError, match=name):
        make_settings(load(task), {**given, "chat_template": chat, "modelname": "gemma3-270m"})


def test_a_calibration_of_another_evaluator_is_not_turned_around(calibration):
    given = {"evaluator": ("random",), "calibration": calibration("random")}
    assert make_settings(load("imdb"), given).aligner.evaluation.offset == 0.7
    with pytest.raises(RainError, match="--target positive"):
        make_settings(load("imdb"), {**given, "target": "negative"})


def test_a_template_of_the_users_drops_the_calibration_of_the_preset(tmp_path):
    settings = make_settings(HH, {"templates": str(saved(tmp_path, LETTERS))})
    assert settings.aligner.evaluation == EvaluationConfig(votes="soft")
    assert set(settings.preset) == {"max_new_tokens", "votes"}
    assert settings.aligner.template.name == "template.txt"


def test_a_template_may_be_a_folder_with_the_name_of_the_tasks(tmp_path):
    path = saved(tmp_path, LETTERS, "harmless_letters.txt")
    assert template_path(HH, str(tmp_path)) == path
    with pytest.raises(RainError, match="--templates"):
        template_path(HH, str(tmp_path / "none"))


@pytest.mark.parametrize("folder", ["HH", "imdb", "tests"])
def test_files_of_a_task_and_its_preset_never_come_from_the_current_folder(folder, monkeypatch, tmp_path):
    wanted = make_settings(load("imdb"), {}).aligner.hash
    monkeypatch.chdir(ROOT / folder)
    assert make_settings(load("imdb"), {}).aligner.hash == wanted
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    saved(tmp_path / "templates", LETTERS, "harmless_letters.txt")
    own, users = (make_settings(HH, {"preset": "none", **given}) for given in ({}, {"templates": "templates"}))
    assert (own.aligner.template.positive, users.aligner.template.positive) == (HARMLESS.positive, ("kind",))


def test_lists_become_tuples_and_ranges_are_checked():
    assert make_settings(HH, {"token_set_lengths": [1, 3]}).aligner.search.token_set_lengths == (1, 3)
    for name, value in (("root_mix", 2), ("votes", "x"), ("concurrency", 0), ("preset", "x"), ("base_url", "http://a")):
        with pytest.raises(RainError, match=f"--{name.replace('_', '-')}"):
            make_settings(HH, {name: value})


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_the_hash_names_what_is_aligned_and_not_how_it_is_run(name):
    changes = hashed(**{name: OTHER_VALUES[name]}) != hashed()
    assert changes is (name not in NOT_HASHED)


def test_run_and_placement_are_no_part_of_what_is_hashed():
    aligned = make_settings(HH, {}).aligner.as_dict()
    hashed_names = {name for part in aligned.values() if isinstance(part, dict) for name in part}
    for config, title in CONFIGS:
        if title in ("run", "placement"):
            assert hashed_names.isdisjoint(config.__dataclass_fields__)
        elif title != "evaluation sources":
            assert hashed_names >= set(config.__dataclass_fields__)


def test_the_hash_follows_the_texts_and_not_their_places(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    hashes = []
    for folder, edit in ((first, str), (second, str), (second, lambda text: text.replace("unkind", "rude"))):
        folder.mkdir(exist_ok=True)
        task = make_task(folder)
        saved(folder / "templates", edit(LETTERS), "letters.txt")
        hashes.append(make_settings(task, {}).aligner.hash)
    assert hashes[0] == hashes[1] != hashes[2]
    assert make_settings(make_task(first, prompt="Q: {question} A:"), {}).aligner.hash not in hashes
    assert make_settings(make_task(first, stop_strings=("\n",)), {}).aligner.hash not in hashes


@pytest.mark.parametrize("name", names())
def test_a_configuration_can_be_sent_to_another_process(name):
    args = WorkerArgs(0, make_settings(load(name), {"preset": "none", "seed": 7}))
    config, copy = args.settings.aligner, pickle.loads(pickle.dumps(args)).settings.aligner
    assert (copy.template, copy.prompt_file, copy.search) == (config.template, config.prompt_file, config.search)
    assert copy.hash == config.hash and re.fullmatch("[0-9a-f]{16}", copy.hash)
    json.dumps(copy.as_dict())


def test_a_single_text_counts_as_one_of_several():
    for evaluator in ("labels", "python:labels:score"):
        one, several = (make_settings(HH, {"evaluator": given}) for given in (evaluator, (evaluator,)))
        assert (one.aligner.hash, one.preset) == (several.aligner.hash, several.preset)
        assert [describe(spec) for spec in one.aligner.evaluators] == [evaluator]
    assert build(ServeConfig, {"cors": "https://chat.example"}).cors == ("https://chat.example",)


def test_evaluators_may_be_given_in_one_flag_or_in_several():
    once = parse(load("hh"), ["--engine", "toy", "--evaluator", "fluency", "random:3"]).settings
    twice = parse(load("hh"), ["--engine", "toy", "--evaluator", "fluency", "--evaluator", "random:3"]).settings
    assert once.aligner.evaluators == twice.aligner.evaluators == ("fluency", "random:3")
