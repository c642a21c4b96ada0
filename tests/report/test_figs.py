"""The pictures: what is drawn for given reports, read off matplotlib's own objects and the files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

FIGS = Path(__file__).resolve().parents[1] / "figs"
sys.path.insert(0, str(FIGS))

import drawing  # noqa: E402
import plot  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"


def share(yes: int, of: int) -> dict[str, Any]:
    rate = yes / of
    return {"yes": yes, "of": of, "rate": rate, "low": rate - 0.1, "high": rate + 0.05, "null": 0, "open": 0}


def run(task: str, metric: str, judge: str = "openai:m") -> dict[str, Any]:
    row = {"metric": metric, "judge": judge, "rain": share(15, 20), "plain": share(10, 20)}
    seconds = {"seconds": {"value": 5.0, "low": 4.5, "high": 5.5}}
    start = {"outdir": f"out/{task}", "task": task, "model": "org/some-model-7b", "size": 7.0}
    return {**start, "scores": [row], "cost": {"ratios": {"plain": seconds}}}


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Collects (file, title) of every picture that is written."""
    seen: list[tuple[str, str]] = []
    write = Figure.savefig

    def savefig(self: Figure, path: Path, **options: Any) -> None:
        seen.append((Path(path).name, self.get_suptitle()))
        write(self, path, **{**options, "dpi": 40})

    monkeypatch.setattr(Figure, "savefig", savefig)
    return seen


def test_without_reports_every_picture_says_that_it_holds_the_papers_values_alone(
    tmp_path: Path, titles: list[tuple[str, str]]
) -> None:
    assert plot.main(["--out", str(tmp_path)]) == 0
    assert [name for name, _ in titles] == ["hh.png", "adv.png", "truth.png", "time.png", "imdb.png"]
    assert all("no measured data" in title for _, title in titles)
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name, _ in titles)


def test_with_reports_no_title_says_so(tmp_path: Path, titles: list[tuple[str, str]]) -> None:
    runs = [run("hh", "harmless"), run("adv", "attack"), run("truth", "true"), run("imdb", "positive")]
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, "runs": runs}))
    assert plot.main([str(tmp_path / "report.json"), "--out", str(tmp_path)]) == 0
    assert len(titles) == 5 and not any("no measured data" in title for _, title in titles)


def test_measured_bars_are_solid_with_intervals_and_the_papers_are_hatched_without() -> None:
    axes = Figure().subplots()
    bars = {"plain": drawing.Bar(50, 40, 55), "rain": drawing.Bar(75, 65, 80)}
    groups = [
        drawing.Group("paper", drawing.Bar(60), drawing.Bar(80), True),
        drawing.Group("mine", **bars, paper=False),
    ]
    drawing.draw_groups(axes, groups)
    assert [bar.get_height() for bar in axes.patches] == [60, 80, 50, 75]
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [True, True, False, False]
    ends = [line.get_paths()[0].vertices[:, 1].tolist() for line in axes.collections]
    assert ends == [[40, 55], [65, 80]]
    labels = [patch.get_label() for patch in drawing.bar_legend(groups)]
    assert labels == [
        "vanilla, paper",
        "RAIN, paper",
        "plain, measured, 95 % interval",
        "RAIN, measured, 95 % interval",
    ]


def test_groups_name_model_judge_and_number() -> None:
    [group] = plot.measured_groups([run("adv", "attack", "hf:org/guard-8B"), run("imdb", "positive")], "adv", "attack")
    assert group.label == "some-model-7b\nhf:guard-8B\nn = 20"
    assert group.rain == drawing.Bar(75.0, 65.0, 80.0)
    empty = run("adv", "attack")
    empty["scores"][0].update(rain={"of": 0}, plain={"of": 0})
    assert plot.measured_groups([empty], "adv", "attack") == []


def test_points_stand_at_the_models_size() -> None:
    axes = Figure().subplots()
    found = run("hh", "harmless")
    handles: dict[str, Any] = {}
    plot.draw_measured(axes, found, found["scores"][0], 0.0, "D", handles)
    plain, rain = (axes.containers[i].lines[0].get_xydata()[0].tolist() for i in (0, 1))
    assert plain[0] < 7.0 < rain[0] and rain[0] / plain[0] < 1.3
    assert (plain[1], rain[1]) == (50.0, 75.0)
    assert sorted(handles) == [f"{side}, measured: some-model-7b, openai:m" for side in ("RAIN", "plain")]


def test_long_labels_are_broken() -> None:
    assert drawing.wrap("hf:truthfulqa-truth-judge-llama2-7B") == "hf:truthfulqa-\ntruth-judge-\nllama2-7B"


@pytest.mark.parametrize("text", ["{", '{"schema": 2, "runs": []}', "[]"])
def test_a_file_that_is_no_report_is_named(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert plot.main([str(path), "--out", str(tmp_path)]) == 2
    assert f"{path}: " in capsys.readouterr().err
