"""A batch of predictions that can be stopped and goes on: finished cases are kept, failures are listed.

The output folder holds a `manifest.json`. A case is entered as begun before its first file is written and
as done after its last. It is kept in a later run when the key agrees, a hash of the image's bytes, the
base, the graft and every option that shapes the result, and when its files still have their hashes. A file
that the manifest does not know, or that other settings made, is replaced only with `overwrite`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftwork.errors import GraftError

from .. import __version__
from ..data import Input, VolumeData
from ..files import publish
from ..images.volume import Volume
from .maps import Maps, Wanted
from .outputs import Outputs, statistics, write_case

MANIFEST, STATISTICS = "manifest.json", "statistics.json"


@dataclass(frozen=True)
class Failure:
    """A case that could not be predicted, and why."""

    case: str
    reason: str


class Results:
    """Writes the cases of one `predict` into `folder`.

    `about` is what shapes every result beside the image: hashes of base and graft, and settings.
    """

    def __init__(
        self, folder: Path, outputs: Outputs, classes: Sequence[str], about: Mapping[str, Any]
    ) -> None:
        self.folder, self.outputs, self.classes = folder, outputs, tuple(classes)
        shaping = {k: v for k, v in asdict(outputs).items() if k != "overwrite"}
        self.about = {**about, **shaping, "classes": list(classes), "medseg": __version__}
        self.failures: list[Failure] = []
        self.kept: list[str] = []
        self.written: list[Path] = []
        self.total = 0
        self.cases = self._read_manifest()
        self._keys: dict[str, str] = {}

    def pending(self, inputs: Sequence[Input]) -> list[Input]:
        """The cases still to predict, without those that are done or may not be replaced.

        Raises GraftError when two cases have one name, since their files would be one.
        """
        names = [one.name for one in inputs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise GraftError(
                f"several images are named {', '.join(twice)}: their masks would overwrite each other; "
                "rename them, or predict them into different folders"
            )
        todo, self.total = [], len(inputs)
        for one in inputs:
            with self._failing(one.name):
                key = self._keys[one.name] = self._key(one)
                if self._is_done(one.name, key) and not self.outputs.overwrite:
                    self.kept.append(one.name)
                    continue
                self._refuse_foreign(one.name, key)
                todo.append(one)
        return todo

    def reader(self, one: Input) -> Callable[[], Volume | None]:
        """Reads a case; a fault is listed and gives None, so that the other cases go on."""

        def read() -> Volume | None:
            volume = None
            with self._failing(one.name):
                volume = one.read()
                # The manifest goes by this name, which a simulated case has only now.
                self._keys.setdefault(volume.name, self._keys.get(one.name, ""))
            return volume

        return read

    def predict(self, volume: Volume, segment: Callable[[Volume, Wanted], Maps]) -> None:
        """Predict one case and write its files; a fault is listed."""
        with self._failing(volume.name):
            found = segment(volume, self.outputs.wanted)
            if volume.like is None:
                return  # a simulated case has no file whose grid a mask could share
            key = self._keys[volume.name]
            self._enter(volume.name, {"key": key, "state": "begun"})
            files = write_case(
                self.folder, volume.name, found, volume.like, self.outputs, self.classes
            )
            self._enter(
                volume.name,
                {
                    "key": key,
                    "state": "done",
                    "files": {f.name: sha256_of([f]) for f in files},
                    "statistics": statistics(volume.name, found.mask, volume.like, self.classes),
                },
            )
            self.written += files

    def finish(self) -> Path | None:
        """Write statistics.json of all finished cases in the folder; None when there is none."""
        rows = [
            row for name in sorted(self.cases) for row in self.cases[name].get("statistics", ())
        ]
        if not rows:
            return None
        return self._write(STATISTICS, rows)

    def failure_table(self) -> str:
        """The failures as a table of text, one row a case."""
        width = max(len(f.case) for f in self.failures)
        inner = "\n" + " " * (width + 4)
        lines = [f"  {f.case:<{width}}  {f.reason.replace(chr(10), inner)}" for f in self.failures]
        return f"{len(self.failures)} of {self.total} cases failed:\n" + "\n".join(lines)

    @contextmanager
    def _failing(self, case: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever one case does must not stop the batch
            kind = "" if isinstance(error, GraftError) else f"{type(error).__name__}: "
            self.failures.append(Failure(case, f"{kind}{error}" if str(error) else kind[:-2]))

    def _key(self, one: Input) -> str:
        image = sha256_of(one.files)
        text = json.dumps({**self.about, "image": image}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _is_done(self, name: str, key: str) -> bool:
        entry = self.cases.get(name, {})
        if entry.get("key") != key or entry.get("state") != "done":
            return False
        files = {self.folder / f: digest for f, digest in entry["files"].items()}
        return all(f.is_file() and sha256_of([f]) == digest for f, digest in files.items())

    def _refuse_foreign(self, name: str, key: str) -> None:
        if self.outputs.overwrite:
            return
        entry = self.cases.get(name)
        if entry is not None and entry.get("key") != key:
            raise GraftError(
                f"{self.folder}: holds this case from another image, base, graft or options; "
                "--overwrite replaces it, another --output keeps both"
            )
        there = [self.folder / f"{name}{e}" for e in self.outputs.endings()]
        there = [f for f in there if f.exists()]
        if entry is None and there:
            raise GraftError(
                f"{there[0]}: exists and is not of this batch; --overwrite replaces it"
            )

    def _enter(self, name: str, entry: dict[str, Any]) -> None:
        self.cases[name] = entry
        self._write(MANIFEST, {"format": 1, "cases": self.cases})

    def _read_manifest(self) -> dict[str, Any]:
        file = self.folder / MANIFEST
        if not file.exists():
            return {}
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            cases = content["cases"]
            if content["format"] != 1 or not all(isinstance(c, dict) for c in cases.values()):
                raise ValueError("unknown format")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise GraftError(
                f"{file}: not a manifest of medseg predict ({error}); remove it or choose another --output"
            ) from error
        return dict(cases)

    def _write(self, name: str, content: Any) -> Path:
        path = self.folder / name
        with publish(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path


def one_batch(
    model: Any, data: VolumeData, graft: Any, folder: Path, outputs: Outputs
) -> tuple[Results, list[Input]]:
    """The results of one `medseg predict`, attached to `model`, and the cases that are still to do.

    Raises GraftError when `folder` lies among the images, where --overwrite could reach them.
    """
    inputs = data.inputs("predict")
    place = folder.resolve()
    for file in {file.resolve() for one in inputs for file in one.files}:
        if place == file.parent or file in (place, *place.parents):
            raise GraftError(
                f"output {folder}: lies among the images ({file}); choose another folder"
            )
    about = {
        "base": tensors_sha256(model.network.state_dict()),
        "graft": tensors_sha256(graft.tensors()) if graft else None,
        "windows": asdict(model.windows),
        "contract": data.contract.to_json(),
        "series": getattr(data, "series", None),
    }
    results = model.results = Results(folder, outputs, class_names(model, graft), about)
    return results, results.pending(inputs)


def class_names(model: Any, graft: Any) -> list[str]:
    """A name for each class that the network, with its graft's new rows, tells apart."""
    outputs = int(model.network.get_submodule(model.head).out_channels)
    for item in graft.spec()["also_train"] if graft else ():
        if item["kind"] == "rows" and item["name"] == model.head:
            outputs += int(item["new"])
    names = list(model.classes)[:outputs]
    return [*names, *(f"class {k}" for k in range(len(names), outputs))]


def sha256_of(paths: Sequence[Path]) -> str:
    """Hash of files and folders: names within a folder, and every byte."""
    total = hashlib.sha256()
    for path in paths:
        inside = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        for file in inside:
            name = file.relative_to(path).as_posix() if path.is_dir() else ""
            try:
                with open(file, "rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
            except FileNotFoundError:
                raise GraftError(f"{file}: no such image file") from None
            total.update(f"{name}\n{digest}\n".encode())
    return total.hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of named tensors: names, types, shapes and every byte."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
