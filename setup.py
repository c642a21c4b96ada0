"""The build, where pyproject.toml does not suffice: the wheel gets a copy of what tasks read.

People read and edit these files in the folders of the original project (HH/, adv/, truth/, imdb/), so they stay there.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("HH", "adv", "truth", "imdb")
FILES = ("demo.json*", "openings.jsonl", "labelled*.jsonl", "preflight_*.json", "templates/*.txt")


class BuildWithTaskFiles(build_py):
    """Copies data sets, templates and calibrations into rain/tasks/files; editable installations need none."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if self.editable_mode:
            return
        root = Path(__file__).parent
        for source in (file for folder in FOLDERS for name in FILES for file in (root / folder).glob(name)):
            target = Path(self.build_lib, "rain", "tasks", "files", source.relative_to(root))
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))


setup(cmdclass={"build_py": BuildWithTaskFiles})
