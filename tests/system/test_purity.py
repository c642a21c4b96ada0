"""The search and the command line start without the big libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT = "import importlib, sys; importlib.import_module(sys.argv[1]); "
HEAVY = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors")
PURE = (
    "rain.core.tree",
    "rain.core.search",
    "rain.core.problem",
    "rain.core.config",
    "rain.core.errors",
    "rain.engines",
    "rain.core.engine",
    "rain.engines.scripted",
    "rain.engines.toy",
    "rain.engines.registry",
    "rain.replay",
    "rain.cli",
)


def python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_imports_no_heavy_library(module):
    done = python(IMPORT + "print(*(name for name in sys.argv[2:] if name in sys.modules))", module, *HEAVY)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("module", ["rain.core.tree", "rain.core.search", "rain.core.config"])
def test_the_search_knows_no_tokenizer_model_or_task(module):
    done = python(IMPORT + "print(*(name for name in sys.modules if name.startswith('rain.')))", module)
    allowed = {"rain.core.tree", "rain.core.search", "rain.core.problem", "rain.core.config", "rain.core.errors"}
    allowed |= {"rain.engines", "rain.core.engine"}
    assert {module} <= set(done.stdout.split()) <= allowed


def test_traces_are_replayed_where_torch_and_transformers_are_not_installed():
    block = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'tokenizers'))); "
    run = "from rain.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(block + run, "replay", "tests/golden/short_eos.json")
    assert done.returncode == 0 and ": equal: " in done.stdout, done.stderr


def test_the_allocation_command_dry_runs_where_torch_and_transformers_are_not_installed(tmp_path):
    site = tmp_path / "site"
    for name in ("torch", "transformers"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(f"raise ImportError('no {name} here')")
    flags = "--engine toy --e 1 --max-simulations 2 --extra-simulations 1 --max-new-tokens 2 --outdir".split()
    command = [sys.executable, ROOT / "HH" / "allocation.py", *flags, tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": f"{site}:{ROOT}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "1 prompts answered, 0 failed" in done.stdout, done.stderr
