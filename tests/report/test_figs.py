"""The figures: what is drawn for given reports, read off matplotlib's own objects and the files."""

import json
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

FIGS = Path(__file__).resolve().parents[2] / "figs"
sys.path.insert(0, str(FIGS))

import drawing  # noqa: E402
import plot  # noqa: E402

from rain.report.paper import load_paper  # noqa: E402

RED = (0xC0 / 255, 0x39 / 255, 0x2B / 255)


def share(yes, of):
    rate = yes / of
    return {"yes": yes, "of": of, "rate": rate, "low": rate - 0.1, "high": rate + 0.05, "null": 0, "open": 0}


def run(task, metric, judge="openai:m"):
    row = {"metric": metric, "judge": judge, "rain": share(15, 20), "plain": share(10, 20)}
    seconds = {"seconds": {"value": 5.0, "low": 4.5, "high": 5.5}}
    start = {"outdir": f"out/{task}", "task": task, "model": "org/some-model-7b", "size": 7.0}
    return {**start, "scores": [row], "cost": {"ratios": {"plain": seconds}}}


@pytest.fixture
def titles(monkeypatch):
    """Collects the title of every figure that is written, and those of its panels, by file; nothing is drawn."""
    seen = {}

    def savefig(self, path, **options):
        seen[Path(path).name] = (self.get_suptitle(), [axes.get_title() for axes in self.axes])

    monkeypatch.setattr(Figure, "savefig", savefig)
    return seen


def test_a_measured_run_is_really_drawn(tmp_path):
    plot.imdb([run("imdb", "positive")], load_paper(), tmp_path / "imdb.png")
    pixels = imread(tmp_path / "imdb.png")[..., :3]
    assert pixels.shape[0] > 500
    assert (abs(pixels - RED).max(axis=-1) < 0.01).mean() > 0.01, "the bar of the measured run is saturated"


def test_without_reports_every_figure_says_that_it_has_only_the_papers_values(tmp_path, titles):
    assert plot.main(["--out", str(tmp_path)]) == 0
    assert sorted(titles) == ["adv.png", "hh.png", "imdb.png", "time.png", "truth.png"]
    assert [name for name, (title, _) in titles.items() if "no measured data" not in title] == []


def test_with_reports_no_title_says_so_and_hh_leaves_out_what_was_not_measured(tmp_path, titles):
    runs = [run("hh", "harmless"), run("adv", "attack"), run("truth", "true"), run("imdb", "positive")]
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, "runs": runs}))
    assert plot.main([str(tmp_path / "report.json"), "--out", str(tmp_path)]) == 0
    assert [name for name, (title, _) in titles.items() if "no measured data" in title] == []
    assert titles["hh.png"][1] == ["Harmlessness"]


def test_growth_is_drawn_from_benches_of_one_or_two_machines(tmp_path):
    growth = {name: [[2, 1.0, 5], [4, 2.0, 9]] for name in ("prompts", "memory", "simulations", "length", "context")}
    benches = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in benches:
        path.write_text(json.dumps({"machine": f"2 cores of {path.stem}", "growth": growth}))
    pictures = []
    for count in (1, 2):
        assert plot.main(["--bench", *map(str, benches[:count]), "--out", str(tmp_path)]) == 0
        pictures.append(imread(tmp_path / "cost.png"))
    assert pictures[0].std() > 0 and (pictures[0] != pictures[1]).any()


def test_measured_bars_are_solid_with_intervals_and_the_papers_are_hatched_without():
    axes = Figure().subplots()
    paper = drawing.Group("paper", drawing.Bar(60), drawing.Bar(80), True)
    mine = drawing.Group("mine", drawing.Bar(50, 40, 55), drawing.Bar(75, 65, 80), False)
    drawing.draw_groups(axes, [paper, mine])
    assert [(bar.get_height(), bar.get_hatch()) for bar in axes.patches] == [
        (60, "///"), (80, "///"), (50, None), (75, None)
    ]  # fmt: skip
    assert [line.get_paths()[0].vertices[:, 1].tolist() for line in axes.collections] == [[40, 55], [65, 80]]
    labels = [patch.get_label().split(",")[:2] for patch in drawing.bar_legend([paper, mine])]
    sides = [("vanilla", "paper"), ("RAIN", "paper"), ("greedy", "measured"), ("RAIN", "measured")]
    assert labels == [[who, f" {what}"] for who, what in sides]


def test_groups_name_model_judge_and_number_and_leave_out_runs_without_verdicts():
    empty = run("adv", "attack")
    empty["scores"][0].update(rain={"of": 0}, plain={"of": 0})
    runs = [run("adv", "attack", "hf:org/guard-8B"), run("imdb", "positive"), empty]
    [group] = plot.measured_groups(runs, "adv", "attack")
    assert group.label == "some-model-7b\nhf:guard-8B\nn = 20"
    assert group.rain == drawing.Bar(75.0, 65.0, 80.0)
    assert plot.short("readout:out/mine, learnt on part 2/2 of a.jsonl") == "readout:mine"


def test_points_are_at_the_models_size():
    axes, found, handles = Figure().subplots(), run("hh", "harmless"), {}
    plot.draw_measured(axes, found, found["scores"][0], 0.0, "D", handles)
    plain, rain = (axes.containers[i].lines[0].get_xydata()[0].tolist() for i in (0, 1))
    assert plain[0] < 7.0 < rain[0] < 1.3 * plain[0]
    assert (plain[1], rain[1]) == (50.0, 75.0)
    assert sorted(handles) == [f"{side}, measured: some-model-7b, openai:m" for side in ("RAIN", "greedy")]


def test_long_labels_are_broken():
    assert drawing.wrap("hf:truthfulqa-truth-judge-llama2-7B") == "hf:truthfulqa-\ntruth-judge-\nllama2-7B"


@pytest.mark.parametrize("text", ["{", '{"schema": 2, "runs": []}', "[]"])
def test_a_file_that_is_not_a_report_is_named(tmp_path, text, capsys):
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert plot.main([str(path), "--out", str(tmp_path)]) == 2
    assert f"{path}: " in capsys.readouterr().err
