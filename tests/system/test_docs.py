"""What the documents name exists in the repository: files, links, headings, commands, the data of shipped read-outs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rain.cli import COMMANDS
from rain.evaluators.readout_file import learnt_from

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "tests" / "golden" / "README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere_inside_the_repository(page):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if not link.startswith(("http:", "https:", "mailto:"))]
    missing = [link for link in files if not (page.parent / link).exists()]
    outside = [link for link in files if not (page.parent / link).resolve().is_relative_to(ROOT)]
    assert missing == []
    assert outside == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_leads_to_one(page):
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if link[1] not in anchors(page.parent / link[0] if link[0] else page)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_path_outside_of_the_repository(page):
    assert not re.search(r"\.\./(\.\./|shared)", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_shows_exists(page):
    shown = set(re.findall(r"(?:^|`|&& |\()rain ([a-z]+)\b", page.read_text(encoding="utf-8"), flags=re.M))
    assert shown <= set(COMMANDS)


def test_nobody_is_told_to_install_what_has_this_name_on_pypi():
    """It is another project's."""
    files = [*PAGES, *(ROOT / "rain").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    advice = re.compile(r"pip install ['\"]?rain\b")
    assert [str(file) for file in files if advice.search(file.read_text(encoding="utf-8"))] == []


def test_the_public_data_of_shipped_read_outs_have_the_checksums_on_the_page():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    sums = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", page, flags=re.M)}
    assert set(sums) == set(re.findall(r"^\| `(.*?)` \|", page, flags=re.M))
    files = (ROOT / "rain" / "evaluators" / "readouts").glob("*.json")
    learnt = [data for file in files for data in learnt_from(json.loads(file.read_text())["measured"])]
    public = [data for data in learnt if not list(ROOT.glob(f"*/{data['file']}"))]
    assert public
    assert [data for data in public if sums.get(data["file"]) != data["sha256"]] == []
