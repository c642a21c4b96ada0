"""``rain view``: the searches of a run as one page."""

from __future__ import annotations

import argparse
import webbrowser
from contextlib import suppress
from pathlib import Path

from rain.core.errors import RainError
from rain.methods.config import method_title
from rain.terminal import counted, say
from rain.view.data import load
from rain.view.page import write_page
from rain.view.server import make_server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rain view``."""
    parser.add_argument("path", type=Path, metavar="OUTDIR", help="of a run, or a recorded search, or a folder of them")
    parser.add_argument("--out", type=Path, help="the page (default: OUTDIR/view.html)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--serve", action="store_true", help="write no page; serve one here that follows the run")
    parser.add_argument("--port", type=int, default=0, help="of --serve (default: a free one)")


def run(args: argparse.Namespace) -> int:
    """Write the page, or serve it until Ctrl-C."""
    path: Path = args.path
    if args.serve and args.out:
        raise RainError("--serve writes no page; leave --out out")
    if args.port and not args.serve:
        raise RainError("--port is for --serve; leave it out")
    if args.serve:
        return _serve(path, args.port, args.open)
    data = load(path)
    out = args.out or (path / "view.html" if path.is_dir() else path.with_name(path.name.partition(".")[0] + ".html"))
    write_page(data, out)
    prompts, size = counted(len(data.prompts), "prompt"), out.stat().st_size / 1e6
    say(f"rain: {prompts}, {len(data.traces)} of them with their searches, in {out} ({size:.1f} MB)")
    others = {prompt["method"] for prompt in data.prompts} - {method_title("rain")}
    if others:
        say(f"rain: {others.pop()} does not search: there is no tree")
    elif not data.traces:
        say("rain: no search was recorded; rain run ... --trace records them")
    if args.open:
        webbrowser.open(out.resolve().as_uri())
    return 0


def _serve(path: Path, port: int, opens: bool) -> int:
    server, url = make_server(path, port)
    say(f"rain: {path} is shown at {url} (Ctrl-C ends it)")
    if opens:
        webbrowser.open(url)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
    return 0
