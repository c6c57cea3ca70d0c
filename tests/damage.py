"""Open damaged copies of model files, each in a child process, and count how that ends.

Run ``python tests/damage.py --count 5000``; the exit code is 3 if a child crashed. Without models it
takes a reference model as it is, and the same model as one of our files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

ENDS = ("refused digest", "clear error", "ran", "crashed", "took too long")
SECONDS = 60
_CODES = {0: "ran", 10: "refused digest", 11: "clear error"}


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """Change 1 to 16 bytes, most of them in the first and last 4 kB, where the structure lies."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 17))):
        reach = min(4096, len(out))
        place = int(random.integers(0, reach))
        if random.random() < 0.3:
            place = len(out) - 1 - place
        elif random.random() < 0.3:
            place = int(random.integers(0, len(out)))
        out[place] ^= int(random.integers(1, 256))
    return bytes(out)


def truncate(data: bytes, random: np.random.Generator) -> bytes:
    """Lose the end, often only a few bytes of it."""
    lost = random.integers(1, 200) if random.random() < 0.5 else random.integers(1, len(data))
    return data[: len(data) - int(lost)]


def splice(data: bytes, random: np.random.Generator) -> bytes:
    """Move a piece to another place, over what is there, or in between."""
    start, size = int(random.integers(0, len(data))), int(random.integers(1, 4096))
    reach = 8192 if random.random() < 0.5 else len(data)
    place = int(random.integers(0, min(reach, len(data))))
    kept = place + size if random.random() < 0.5 else place
    return data[:place] + data[start : start + size] + data[kept:]


def word(data: bytes, random: np.random.Generator) -> bytes:
    """Put an extreme number where an offset or a count may be."""
    out = bytearray(data)
    place = 4 * int(random.integers(0, min(8192, len(out)) // 4))
    extremes = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(out), len(out) - 4, place)
    out[place : place + 4] = int(random.choice(extremes)).to_bytes(4, "little")
    return bytes(out[: len(data)])


DAMAGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (flip, truncate, splice, word)


def damaged_copies(models: Sequence[bytes], count: int, seed: int = 1) -> Iterator[bytes]:
    """Give copies that differ from their originals, model by model and damage by damage in turn."""
    random = np.random.default_rng(seed)
    for number in range(count):
        original = models[number % len(models)]
        copy = original
        while copy == original:
            copy = DAMAGES[number // len(models) % len(DAMAGES)](original, random)
        yield copy


def use(path: Path) -> int:
    """Read, load and run a model file; give how that ended as an exit code of its own."""
    from edgecnn.bundle import file
    from edgecnn.core.frame import Frame
    from edgecnn.errors import EdgecnnError
    from edgecnn.runtime.interpreter import open_interpreter
    from edgecnn.runtime.predictor import load

    try:
        try:
            model = load(path, threads=1, normalization=None)
        except EdgecnnError as error:
            if "normalization" not in error.fix and "(1, height, width" not in error.message:
                raise
            # Not made for pictures, or no longer: the interpreter alone has to bear it.
            interpreter = open_interpreter(file.read(path).model, threads=1)
            interpreter.invoke(*(np.zeros(spec.shape, spec.dtype) for spec in interpreter.inputs))
            return 0
        model.predict(Frame(np.zeros((64, 64, 3), np.uint8), 0.0))
    except EdgecnnError as error:
        return 10 if "digest" in error.message else 11
    return 0


def _child(path: Path) -> None:
    """Use a model file in a process of its own, with what an interpreter prints thrown away."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        code = use(path)
    except BaseException:  # anything but an error of ours would be a traceback to the user
        code = 1
    os._exit(code)


def end_of(path: Path) -> str:
    """Say how the use of a model file ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside OpenCV's idle threads
        child = multiprocessing.get_context("fork").Process(target=_child, args=(path,))
        child.start()
    child.join(SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()
        return "took too long"
    return _CODES.get(child.exitcode, "crashed")


def trial(models: Sequence[bytes], count: int, folder: Path, seed: int = 1) -> Counter[str]:
    """Count how the use of ``count`` damaged copies ends; those that crash stay in ``folder``."""
    import edgecnn.runtime.predictor
    from edgecnn.runtime.interpreter import find_package

    find_package()  # imported once here, so that a child needs milliseconds
    assert edgecnn.runtime.predictor
    ends: Counter[str] = Counter()
    for number, copy in enumerate(damaged_copies(models, count, seed)):
        path = folder / f"damaged_{number}.tflite"
        path.write_bytes(copy)
        end = end_of(path)
        ends[end] += 1
        if end in ("crashed", "took too long"):
            print(f"{path}: {end}", file=sys.stderr)
        else:
            path.unlink()
    return ends


def default_models(folder: Path) -> list[Path]:
    """Give a foreign file, and one of ours that is made of it."""
    from edgecnn.bundle import file
    from edgecnn.bundle.manifest import Manifest
    from edgecnn.core.frame import InputSpec
    from edgecnn.core.prediction import Head
    from edgecnn.runtime.interpreter import open_interpreter

    shared = Path(__file__).resolve().parent.parent / os.environ.get("EDGECNN_SHARED", "../shared")
    foreign = shared / "reference_models" / "vww_96_int8.tflite"
    model = foreign.read_bytes()
    pictures = np.random.default_rng(1).integers(0, 256, (2, 96, 96, 3), np.uint8)
    interpreter = open_interpreter(model, threads=1)
    codes = (pictures.astype(np.int16) - 128).astype(np.int8)
    outputs = np.concatenate([interpreter.invoke(picture[None])[0] for picture in codes])
    # Two outputs of a softmax, which are no single neuron between two labels.
    head = Head("person", "softmax", ("not_person", "person"))
    manifest = Manifest("person", "int8", InputSpec(96, 96), (head,))
    ours = folder / "ours.tflite"
    file.write(ours, model, manifest, file.Golden(pictures, (outputs,)))
    return [foreign, ours]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("models", nargs="*", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="edgecnn-damage-"))
    models = [path.read_bytes() for path in arguments.models or default_models(folder)]
    began = time.monotonic()
    ends = trial(models, arguments.count, folder, arguments.seed)
    print(f"{arguments.count} damaged copies of {len(models)} files, {time.monotonic() - began:.0f} s")
    for end in ENDS:
        print(f"{end:>16}: {ends[end]}")
    return 3 if ends["crashed"] or ends["took too long"] else 0


if __name__ == "__main__":
    sys.exit(main())
