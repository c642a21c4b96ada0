"""What rain view takes for 100,000 nodes, in Chromium without a window: python tests/load/view.py [FOLDER].

Two searches: one that is made up, in which every node has a simulation, and one of the toy model with T = 200. For
each: milliseconds until the page is ready, frames a second and milliseconds a frame while zooming in and out, and
memory of the page's process (PSS); the code is 1 if one of 2 s, 50 frames and 300 MB is missed. With --trace-cost, what
recording costs instead: pairs of searches of smollm2.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rain import Rain
from rain.core.config import RainConfig
from rain.trace import Tree, read
from rain.trace.record import FORMAT, TraceWriter, to_file
from rain.view.data import load
from rain.view.page import write_page

NODES = 100_000
ZOOM = """
async seconds => {
  const frames = [], draws = [], began = performance.now(), original = app.draw;
  app.draw = function () {
    const start = performance.now();
    original.call(this);
    draws.push(performance.now() - start);
  };
  let last = began;
  while (performance.now() - began < 1000 * seconds) {
    await new Promise(requestAnimationFrame);
    const now = performance.now(), near = Math.floor((now - began) / 1000) % 2 === 0;
    frames.push(now - last);
    last = now;
    const turn = {deltaY: near ? -12 : 12, clientX: 700, clientY: 300};
    document.getElementById("tree").dispatchEvent(new WheelEvent("wheel", turn));
  }
  app.draw = original;
  const middle = list => list.sort((a, b) => a - b)[list.length >> 1], slow = frames.filter(each => each > 20.5).length;
  return {frames_per_second: 1000 * frames.length / (last - began), slow_frames: slow / frames.length,
    draw_ms: middle(draws), slowest_draw_ms: Math.max(...draws), boxes: app.boxes.length};
}
"""


def make_up(path: Path) -> None:
    """Write a search with NODES nodes, each with a simulation, at random places; with commits."""
    rng, writer, count, root, children = random.Random(0), TraceWriter(to_file(path)), 1, 0, {0: []}
    path_to, t = {0: [0]}, 0.0
    about = {"id": path.name.partition(".")[0], "question": "A question that was made up?", "seed": 0}
    about["config"] = {"root_mix": 0.25, "min_visits": 6, "value_threshold": 0.8}
    writer.write({"event": "search", "t": 0, "format": FORMAT, **about, "asks": [{"by": "readout:made-up"}]})
    while count < NODES:
        node = root
        while children[node] and rng.random() < 0.86:
            node = children[node][min(int(rng.expovariate(0.5)), len(children[node]) - 1)]
        size, t = min(rng.randint(1, 10), NODES - count), t + 0.001
        words = [f" word{count + i} and more" for i in range(size)]
        event = {"event": "nodes", "t": t, "parent": node, "added": False, "texts": words}
        writer.write({**event, "tokens": [[count + i] for i in range(size)], "priors": [1 / size] * size})
        for leaf in range(count, count + size):
            children[node].append(leaf)
            children[leaf], path_to[leaf] = [], [*path_to[node], leaf]
            score, here = rng.uniform(-1, 1), path_to[leaf][path_to[leaf].index(root) :]
            visit = {"event": "visit", "t": t, "path": here, "rollout": " and so on.", "score": score}
            writer.write({**visit, "similar": [], "evidence": [{"score": score, "logit": score}]})
        count += size
        if children[root] and rng.random() < 200 / NODES:
            root = children[root][0]
            writer.write({"event": "commit", "t": t, "node": root, "simulations": size, "finish": None}, flush=True)
    writer.write({"event": "end", "t": t, "finish": "length", "answer": "…", "cost": {}})
    writer.flush()


def search(path: Path) -> None:
    """Record a real search with T = 200, of the toy model, which never ends here."""
    import rain.engines.toy as toy

    original = toy.log_distribution

    def endless(prefix: Any) -> Any:
        logprobs = original(prefix)
        logprobs[toy.EOS] = -50.0
        return logprobs

    toy.log_distribution = endless
    many = {"candidates": 24, "max_draws": 48, "candidate_temperature": 2.0}
    config = RainConfig(max_simulations=200, extra_simulations=200, min_visits=199, max_new_tokens=420, **many)
    with Rain(engine="toy", search=config, evaluator=["random"], preset="none") as model:
        model.generate("Why?", trace=path)


def measure(browser: Any, page_file: Path, seconds: float) -> dict[str, Any]:
    """Open a page, zoom, and return what it took."""
    page = browser.new_page(viewport={"width": 1500, "height": 860})
    begun = time.perf_counter()
    page.goto(page_file.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=120_000)
    ready = time.perf_counter() - begun
    own = float(page.evaluate("document.documentElement.dataset.ready"))
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    renderer = max((each["id"] for each in processes if each["type"] == "renderer"), key=pss)
    cpu = 10 * sum(map(int, Path(f"/proc/{renderer}/stat").read_text().rpartition(")")[2].split()[11:13]))
    zoom = page.evaluate(ZOOM, seconds)
    heap, memory = page.evaluate("performance.memory.usedJSHeapSize") / 1e6, pss(renderer)
    nodes = page.evaluate("[app.trace.nodes, app.trace.visits, app.trace.commits.length]")
    page.close()
    return {
        "load": os.getloadavg()[0],
        "file_mb": page_file.stat().st_size / 1e6,
        "nodes_visits_commits": nodes,
        "ready_ms": own,
        "ready_from_outside_ms": 1000 * ready,
        "ready_cpu_ms": cpu,
        **zoom,
        "heap_mb": heap,
        "process_mb": memory,
    }


def pss(process: int) -> float:
    """Return a process's share of memory (MB)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1e3


def trace_cost(folder: Path, pairs: int) -> dict[str, Any]:
    """Return what recording adds to the work of the process: measured inside of it, and in pairs of the same search."""
    from rain.trace.record import Recorder

    inside = [0.0]

    def watched(original: Any) -> Any:
        def timed(*args: Any, **given: Any) -> Any:
            begun = time.thread_time()
            try:
                return original(*args, **given)
            finally:
                inside[0] += time.thread_time() - begun

        return timed

    for name in ("__init__", "added", "visited", "committed", "ended", "close"):
        setattr(Recorder, name, watched(getattr(Recorder, name)))
    with Rain("smollm2", search=RainConfig(max_simulations=8, max_new_tokens=8)) as model:
        taken: dict[bool, list[float]] = {True: [], False: []}
        for pair in range(-1, pairs):
            for traced in (True, False) if pair % 2 else (False, True):
                begun, inside[0] = time.process_time(), inside[0] if pair >= 0 else 0.0
                option = {"trace": folder / "cost.jsonl.gz"} if traced else {}
                answer = model.generate("How do I get back at my neighbour?", **option)
                if pair >= 0:
                    taken[traced].append(time.process_time() - begun)
    return {
        "simulations": answer.cost["simulations"],
        "cpu_s_traced": taken[True],
        "cpu_s": taken[False],
        "share_of_pairs": sum(taken[True]) / sum(taken[False]) - 1,
        "share_inside": inside[0] / sum(taken[True]),
        "bytes": (folder / "cost.jsonl.gz").stat().st_size,
    }


def main() -> int:
    """Measure, and print JSON; return 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("/tmp/rain-view-load"))
    parser.add_argument("--seconds", type=float, default=8.0, help="how long to zoom")
    parser.add_argument("--trace-cost", type=int, metavar="PAIRS", default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.trace_cost:
        print(json.dumps(trace_cost(args.folder, args.trace_cost), indent=1))
        return 0
    from playwright.sync_api import sync_playwright

    chromium, kept = shutil.which("chromium") or shutil.which("chromium-browser"), True
    with sync_playwright() as started:
        for name, make in (("made-up", make_up), ("searched", search)):
            trace = args.folder / f"{name}.jsonl.gz"
            if not trace.exists():
                make(trace)
            assert len(Tree(read(trace).events).nodes) >= NODES, trace
            page_file = args.folder / f"{name}.html"
            write_page(load(trace), page_file)
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            found = measure(browser, page_file, args.seconds)
            print(json.dumps({name: found}, indent=1))
            browser.close()
            kept &= found["ready_ms"] <= 2000 and found["frames_per_second"] >= 50 and found["process_mb"] <= 300
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
