"""The README's figure: a recorded tree is drawn without the model, and nothing in it overlaps."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install -e '.[figs]'")

FIGS = Path(__file__).parents[2] / "figs"
sys.path.insert(0, str(FIGS))

import tree  # noqa: E402
import tree_drawing  # noqa: E402


@pytest.fixture
def recorded():
    return tree.load_tree(FIGS / "tree.json")


@pytest.fixture
def boxes(recorded):
    def below(box):
        return [box, *(other for child in box.children for other in below(child))]

    return below(tree_drawing.layout(recorded)[0])


def test_the_committed_path_is_the_answer_in_one_straight_line(recorded, boxes):
    committed = [box for box in boxes if box.kind == "committed"]
    assert "".join(box.text for box in committed).strip() == recorded["answer"]
    assert len({round(box.y, 9) for box in boxes if box.kind != "left"}) == 1


def test_the_greedy_branch_is_drawn_and_was_left_for_one_of_a_higher_value(recorded, boxes):
    greedy = [box for box in boxes if box.greedy]
    assert recorded["greedy"].startswith("".join(box.text for box in greedy).strip())
    left = [box for box in greedy if box.kind == "left"]
    assert left and all(box.kind == "committed" for box in greedy[: -len(left)])
    [chosen] = [box for box in boxes if box.kind == "committed" and box.depth == left[0].depth]
    assert chosen.value > left[0].value + 0.3


def test_no_box_overlaps_another_of_its_column(boxes):
    for one, other in combinations(boxes, 2):
        if one.depth == other.depth:
            assert abs(one.y - other.y) >= (one.size[1] + other.size[1]) / 2


def test_both_figures_are_written_from_the_recording_alone(tmp_path):
    (tmp_path / "tree.json").write_bytes((FIGS / "tree.json").read_bytes())
    assert tree.main(["--out", str(tmp_path)]) == 0
    for name in ("tree.png", "overview.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_missing_recording_is_an_error_that_names_the_file(tmp_path, capsys):
    assert tree.main(["--out", str(tmp_path)]) == 2
    assert str(tmp_path / "tree.json") in capsys.readouterr().err


def test_the_measured_bars_are_those_of_the_results():
    results = (FIGS.parent / "docs/results.md").read_text()
    [row] = [line for line in results.splitlines() if "(#imdb-with" in line and "blind rater" in line]
    n, rain, greedy, p = tree.MEASURED["n"], tree.MEASURED["rain"], tree.MEASURED["greedy"], tree.MEASURED["p"]
    cells = [cell.strip(" *") for cell in row.split("|")]
    assert cells[3] == str(n)
    assert cells[5].startswith(f"{100 * rain / n:.1f} %")
    assert cells[6].startswith(f"{100 * greedy / n:.1f} %")
    assert p == f"p = {cells[8]}"
