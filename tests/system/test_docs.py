"""What the documents name exists in the repository: files, links, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rain.cli import COMMANDS

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
