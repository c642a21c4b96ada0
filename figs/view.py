"""Takes the README's picture of a recorded search: python figs/view.py PAGE#prompt=ID&node=N [--out FILE].

The page is one that ``rain view`` has written, with the address of a prompt and a node in it. Needs Playwright's Python
package and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Open the page and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", help="of rain view; what follows # says where")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("view.png"))
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), default=(1440, 640))
    parser.add_argument("--dark", action="store_true", help="white on black")
    args = parser.parse_args()
    file, _, place = args.page.partition("#")
    size = {"width": args.size[0], "height": args.size[1]}
    with sync_playwright() as started:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=size, color_scheme="dark" if args.dark else "light")
        page.goto(f"{Path(file).resolve().as_uri()}#{place}")
        page.wait_for_selector("html[data-ready]")
        page.screenshot(path=args.out)
        browser.close()


if __name__ == "__main__":
    main()
