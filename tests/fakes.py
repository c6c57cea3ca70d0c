"""Stand-ins for what a test cannot have: models whose scores it chooses, pictures made of numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from edgecnn.bundle.manifest import Manifest
from edgecnn.core.frame import Frame, InputSpec, Pixels, resize
from edgecnn.core.prediction import Head, Prediction, Scores, StageTimes
from edgecnn.errors import DataError


@dataclass
class FakePredictor:
    """A model that looks up its scores by the first byte of what it is fed, round and round."""

    path: Path
    heads: Sequence[Head]
    table: Mapping[str, Sequence[Sequence[float]]]
    input: InputSpec = field(default=InputSpec(8, 8))
    precision: str = "int8"
    manifest: Manifest | None = None
    times: StageTimes = field(default=StageTimes(0.1, 2.0, 0.1))
    interpreter: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(threads=3))
    calls: list[int] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.manifest.name if self.manifest else self.path.stem

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    def scores(self, codes: Pixels) -> dict[str, Scores]:
        key = int(codes[0, 0, 0])
        rows = {head.name: self.table[head.name] for head in self.heads}
        return {name: np.array(table[key % len(table)], np.float32) for name, table in rows.items()}

    def predict(self, frame: Frame) -> Prediction:
        self.calls.append(frame.index)
        self.log.append(self.name)
        heads = self.scores(resize(frame.pixels_rgb, self.input))
        return Prediction(heads, frame.index, frame.captured_at_s, self.times)


@dataclass(frozen=True)
class FakePicture:
    """A grey picture of which every byte is ``value``; negative ones cannot be read."""

    path: str
    label: str
    value: int

    def read(self) -> Pixels:
        if self.value < 0:
            raise DataError(f"'{self.path}' is cut off.", fix="Remove it.")
        return np.full((12, 16, 3), self.value, np.uint8)
