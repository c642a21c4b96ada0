"""What answers depend on besides the settings: the prompts, the weights, and the versions of programs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rain.core.errors import RainError

_EDGE = 1 << 20
_SAMPLES, _SAMPLE = 64, 1 << 16
_MODEL_FILES = (".safetensors", ".bin", ".gguf", ".pt", ".json", ".model", ".txt", ".jinja")


@dataclass(frozen=True)
class Inputs:
    """What a run works on.

    Attributes:
        source: name of the data set.
        prompts: of the whole data set, whatever part of it is run: the digest of each prompt's further fields, by id.
        weights: fingerprint of the model's files; empty: unknown.
    """

    source: str
    prompts: Mapping[str, str]
    weights: str

    def as_dict(self) -> dict[str, Any]:
        """Return what config.json says about them, and the versions of what works on them."""
        lines = "".join(f"{id} {digest}\n" for id, digest in self.prompts.items())
        data = {"source": self.source, "prompts": len(self.prompts), "sha256": _sha256([lines.encode()])}
        return {"data": data, "weights": self.weights, "versions": _versions("rain", "torch", "transformers")}


def fingerprint(model: Path | str) -> str:
    """Return what tells a model from another one under the same name; empty if that is unknown.

    Args:
        model: a folder, a .gguf file, or a hub name, of which the revision in the local cache counts.
    """
    path = Path(model)
    try:
        if path.is_file():
            return _fingerprint([path])
        if path.is_dir():
            return _fingerprint(sorted(file for file in path.iterdir() if file.suffix in _MODEL_FILES))
        from huggingface_hub.constants import HF_HUB_CACHE

        return (Path(HF_HUB_CACHE) / f"models--{str(model).replace('/', '--')}" / "refs" / "main").read_text().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise RainError(f"cannot read model {model}: {error.strerror}") from error


def same_weights(one: str, other: str) -> bool:
    """Tell whether two fingerprints can be those of one model; earlier versions of RAIN wrote the first half alone."""
    return all(a == b for a, b in zip(one.split("-"), other.split("-")))  # noqa: B905


def _fingerprint(files: Iterable[Path]) -> str:
    """Return a digest of the files' edges, and one of samples from all over them."""
    files = list(files)
    edges = _sha256(part for file in files for part in _edges(file))
    return f"{edges}-{_sha256(part for file in files for part in _samples(file))[:16]}"


def _samples(path: Path) -> Iterable[bytes]:
    """Yield pieces at equal distances, which a change of a whole layer in the middle of a file cannot miss."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        for number in range(_SAMPLES):
            file.seek(size * number // _SAMPLES)
            yield file.read(_SAMPLE)


def _edges(path: Path) -> Iterable[bytes]:
    """Yield a file's name, size, first and last MiB, and if it is longer than that the header of its tensors."""
    size = path.stat().st_size
    yield f"{path.name} {size}\n".encode()
    with open(path, "rb") as file:
        yield (first := file.read(_EDGE))
        header = int.from_bytes(first[:8], "little") + 8 if path.suffix == ".safetensors" else 0
        yield file.read(max(0, min(header, size) - _EDGE))
        file.seek(max(0, size - _EDGE))
        yield file.read()


def _sha256(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found
