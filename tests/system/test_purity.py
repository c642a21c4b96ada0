"""The search, ``import rain`` and the command line start without the big libraries."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import pytest
from support.tiny_task import ROOT

from rain.cli import COMMANDS

IMPORT = "import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules)"
HEAVY = {"fastapi", "torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors"}
CORE = [f"rain.core.{path.stem}" for path in sorted((ROOT / "rain" / "core").glob("[a-z]*.py"))]
LIGHT = ["rain", "rain.cli", "rain.replay", "rain.settings", "rain.evaluators.labels", "rain.text"]
LIGHT += ["rain.serve.command", *(f"rain.engines.{name}" for name in ("scripted", "toy", "registry"))]
TOY = "--engine toy --max-simulations 2 --extra-simulations 1 --max-new-tokens 2".split()


def python(*arguments, path=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_imports_no_heavy_library(module):
    assert HEAVY.isdisjoint(python("-c", IMPORT, module).split())


def test_no_command_imports_a_heavy_library_for_its_help():
    modules = ", ".join(module for module, _ in COMMANDS.values())
    imported = python("-c", f"import sys, {modules}; print(*sys.modules)").split()
    assert (HEAVY | {"sklearn", "matplotlib"}).isdisjoint(imported)


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("figs/plot.py", "figs"),
        ("figs/tree.py", "figs"),
        ("-m rain annotate score ratings.jsonl", "annotate"),
        ("-m rain serve", "serve"),
        ("-m rain learn none.json --labelled HH/labelled.jsonl", "learn"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(command, extra, tmp_path):
    block = "import sys; sys.modules.update(dict.fromkeys(['matplotlib', 'sklearn', 'fastapi']))"
    (tmp_path / "sitecustomize.py").write_text(block)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    words = [sys.executable, *command.split()]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 2
    assert re.fullmatch(rf"\w+: error: .* needs .*pip install -e '\.\[{extra}\]'\n", done.stderr)


def test_the_core_imports_nothing_else_of_rain_and_no_heavy_library():
    imported = set(python("-c", f"import sys, {', '.join(CORE)}; print(*sys.modules)").split())
    assert HEAVY.isdisjoint(imported)
    assert {name for name in imported if name.startswith("rain.") and not name.startswith("rain.core")} == set()
    assert set(CORE) <= imported


def test_no_room_imports_another_that_imports_it():
    """A room is a folder of ``rain/`` or a module that lies in it directly; imports within functions count, too."""
    imports = {}
    for file in (ROOT / "rain").rglob("*.py"):
        room, tree = file.relative_to(ROOT / "rain").with_suffix("").parts[0], ast.parse(file.read_text())
        branches = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
        for_types = [node for node in branches if "TYPE_CHECKING" in ast.unparse(node.test)]
        skipped = {id(node) for block in for_types for node in ast.walk(block)}
        names = (node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and id(node) not in skipped)
        imports.setdefault(room, set()).update(name.split(".")[1] for name in names if name and name[:5] == "rain.")
    for room, left in imports.items():
        reached, left = set(), list(left - {room})
        while left:
            reached.add(found := left.pop())
            left += imports.get(found, set()) - reached
        assert room not in reached, room
    assert imports["library"] >= {"aligner", "calls"}


@pytest.fixture
def without_libraries(tmp_path):
    """A search path on which torch and transformers cannot be imported."""
    for name in ("torch", "transformers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('no {name} here')")
    return f"{tmp_path}:{ROOT}"


def test_traces_are_replayed_without_torch_and_transformers(without_libraries):
    assert ": equal: " in python("-m", "rain.cli", "replay", "tests/golden/short_eos.json", path=without_libraries)


def test_the_allocation_command_dry_runs_without_torch_and_transformers(without_libraries, tmp_path):
    script = str(ROOT / "HH" / "allocation.py")
    assert "1 prompt answered, 0 failed" in python(
        script, "--e", "1", "--outdir", str(tmp_path / "out"), *TOY, path=without_libraries
    )


def test_the_library_dry_runs_without_torch_and_transformers(without_libraries):
    code = "import rain; print(rain.Rain(engine='toy').generate('a', max_new_tokens=2).finish)"
    assert python("-c", code, path=without_libraries).strip() in ("length", "eos")
