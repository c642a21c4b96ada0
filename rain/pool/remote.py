"""Workers that share no disk with the process that started them: files go out with the settings, records come back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rain.aligner import work
from rain.evaluators.templates import read_text
from rain.pool.worker import WorkerArgs, WorkerLink
from rain.results.jsonl import Record, ResultWriter, encode_json
from rain.results.run_dir import OutDir
from rain.settings import Settings


@dataclass(frozen=True, slots=True)
class Parcel:
    """Settings, and what else a worker on another machine needs from this one.

    Attributes:
        settings: of the run.
        texts: the contents of the files that the settings name, by the names they get over there.
        folder: working directory; the worker goes there if its machine has such a folder.
    """

    settings: Settings
    texts: Mapping[str, str]
    folder: str

    @classmethod
    def of(cls, settings: Settings) -> Parcel:
        """Pack the settings of a run with its prompt file and its template."""
        prompt, template = settings.task.path(settings.task.prompt), settings.template_path()
        names = {f"prompt/{prompt.name}": prompt, f"template/{template.name}": template}
        return cls(settings, {name: read_text(path) for name, path in names.items()}, os.getcwd())

    def unpack(self, folder: Path) -> Settings:
        """Write the files into an empty folder and return settings that name them there."""
        for name, text in self.texts.items():
            (folder / name).parent.mkdir()
            (folder / name).write_bytes(text.encode())
        prompt, template = self.texts
        task = replace(self.settings.task, folder=folder, prompt=prompt)
        run = replace(self.settings.run, templates=str(folder / template))
        return replace(self.settings, task=task, run=run)


def remote_main(args: WorkerArgs, link: WorkerLink) -> None:
    """Run a worker whose parent writes the records; settings: a `Parcel`."""
    parcel: Parcel = args.settings
    with suppress(OSError):
        os.chdir(parcel.folder)

    def write(record: Record) -> None:
        encode_json(record)  # a record that cannot be written is this worker's fault, not its parent's
        link.record(record["id"], record)

    with TemporaryDirectory(prefix="rain-") as folder:
        work(parcel.unpack(Path(folder)), link, write)


class ResultFiles:
    """The result files of several workers, written by one process; each is opened for its first record."""

    def __init__(self, outdir: OutDir) -> None:
        self._outdir = outdir
        self._writers: dict[int, ResultWriter] = {}

    def write(self, worker: int, record: Record) -> None:
        """Append a worker's record to its file; after return it is on the disk.

        Raises:
            RainError: the disk is full or fails, or the file is in use.
        """
        if worker not in self._writers:
            self._writers[worker] = ResultWriter(self._outdir.result_path(worker))
        self._writers[worker].write(record)

    def close(self) -> None:
        """Close all files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def __enter__(self) -> ResultFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
