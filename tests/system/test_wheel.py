"""A wheel built from the project works outside of the checkout: tasks, goals, the paper's numbers, the library."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = "--engine toy --max-simulations 2 --extra-simulations 1 --max-new-tokens 4".split()
DATA = {
    "HH": {"demo.jsonl", "labelled.jsonl", "preflight_smollm2.json", "preflight_smollm2_readout.json", "templates"},
    "adv": {"demo.json", "labelled.jsonl", "preflight_smollm2.json", "templates"},
    "truth": {"demo.jsonl", "labelled.jsonl", "preflight_smollm2.json", "templates"},
    "imdb": {
        "openings.jsonl",
        "labelled.jsonl",
        "labelled_generated.jsonl",
        "preflight_smollm2.json",
        "preflight_smollm2_readout.json",
        "templates",
    },
}
LIBRARY = """
import rain
with rain.Rain({model}, search=rain.RainConfig(max_simulations=2, extra_simulations=1, max_new_tokens=4)) as made:
    print(rain.__file__, len(made.generate("Why?").commits))
"""

TRACKED = ["git", "ls-files", "-zco", "--exclude-standard"]

pytestmark = [pytest.mark.wheel, pytest.mark.skipif(not shutil.which("git"), reason="git lists the project's files")]
Python = Callable[..., str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a wheel of the project, built from a copy, is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    copied = subprocess.run(TRACKED, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, copied.split("\0")):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    (folder / "source" / "HH" / "outdir").mkdir()
    (folder / "source" / "HH" / "secret.json").write_text("not part of the project")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, folder / "source"]
    subprocess.run(build, check=True)
    [wheel] = folder.glob("rain-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.fixture
def python(site: Path, tmp_path: Path) -> Python:
    """Return a function that runs Python in an empty folder, with the wheel instead of the checkout; returns stdout."""
    environ = {**os.environ, "PYTHONPATH": str(site)}

    def run(*args: str) -> str:
        done = subprocess.run([sys.executable, *args], cwd=tmp_path, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_wheel_has_the_data_of_the_tasks_and_nothing_else_of_their_folders(site: Path) -> None:
    files = site / "rain" / "tasks" / "files"
    assert {folder.name: {file.name for file in folder.iterdir()} for folder in files.iterdir()} == DATA
    assert (site / "rain" / "py.typed").is_file()
    assert {file.suffix for file in (site / "rain" / "view").iterdir()} >= {".html", ".css", ".js"}


def test_goals_are_listed_with_what_was_measured(python: Python, site: Path) -> None:
    shown = python("-m", "rain", "goals")
    assert "readout:positive" in shown and "truthful_small.txt" in shown
    assert str(site) in shown, "the templates are those of the wheel"


def test_preflight_has_its_labelled_texts(python: Python) -> None:
    shown = python("-m", "rain", "preflight", "--task", "hh", "--engine", "toy")
    assert re.search(r"^texts +96 \(48 good\)$", shown, re.M), shown


def test_a_run_and_its_report_with_the_paper_s_column(python: Python, tmp_path: Path) -> None:
    python("-m", "rain", "run", "hh", *SMALL, "--e", "2", "--outdir", "hh")
    lines = (tmp_path / "hh" / "res_0.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"][:8] for line in lines] == ["hh-00000", "hh-00001"]
    python("-m", "rain", "run", "adv", *SMALL, "--e", "1", "--outdir", "adv", "--judge", "keywords:llm-attacks")
    assert "Vicuna-7B" in python("-m", "rain", "report", "adv")


@pytest.mark.parametrize("model", ['engine="toy"', '"smollm2"'])
def test_the_library_and_the_version_are_those_of_the_wheel(python: Python, site: Path, model: str) -> None:
    place, commits = python("-c", LIBRARY.format(model=model)).split()
    assert Path(place).is_relative_to(site)
    assert int(commits) > 0
    assert python("-m", "rain", "--version").strip() == f"rain {version('rain')}"
