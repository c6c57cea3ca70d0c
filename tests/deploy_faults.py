"""Break a deploy after each of its steps, in each way that one breaks in the field. A table.

Run ``python tests/deploy_faults.py``; the exit code is 3 if once neither the old model ran nor the new one.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from broker import until
from pi_box import PiBox, pi_box, wait_settled, write_clip

from edgecnn.bundle import file
from edgecnn.deploy import wheelhouse
from edgecnn.deploy.device.guard import PHASES
from edgecnn.deploy.device.layout import REVERTING, SETTLED, digest
from edgecnn.deploy.flow import STEPS
from edgecnn.deploy.wheel import own_wheel

PROBATION_S = 1
UNTIL_IT_DIES_S = 300
"""Never waited for: a watch that ends with its short clip is seen to, however slow this machine is."""
MOMENTS = [title for title, _ in STEPS] + [phase for phase, _ in PHASES]


@dataclass
class Field:
    """A device that watches with one of two models, and everything that a deploy of the other needs.

    Attributes:
        box: The device.
        models: The two files.
        clip: What its camera sees, for minutes.
        short_clip: What a camera sees that gives up.
        wheels: What the device installs from.
        builds: Counts environments, so that each can be a new one.
        full: Whether the disk has been filled.
        new: Digest of the model that is being deployed.
    """

    box: PiBox
    models: tuple[Path, Path]
    clip: Path
    short_clip: Path
    wheels: Path
    builds: int = 0
    full: bool = False
    new: str | None = None

    def new_model(self) -> Path:
        """Give the model that does not run now."""
        # A watch that was just started anew answers in a while.
        assert until(lambda: self.box.watching() != "", 60)
        running = self.box.watching()
        return next(model for model in self.models if digest(str(model)) != running)

    def need_new_environment(self) -> None:
        """Change the pins, so that the device has to install."""
        self.builds += 1
        write_wheelhouse(self.wheels, f"pad {self.builds}")


@contextmanager
def field_of(folder: Path) -> Iterator[Field]:
    """Set everything up: the first model watches."""
    import faults

    models = (folder / "one.tflite", folder / "two.tflite")
    faults.write_model(models[0])
    write_other(models[0], models[1])
    (folder / "box").mkdir()
    clips = write_clip(folder / "clip.avi", 1800), write_clip(folder / "short.avi", 1)
    wheels = folder / "wheels"
    write_wheelhouse(wheels, "")
    with pi_box(folder / "box") as box:
        found = Field(box, models, *clips, wheels)
        done = box.deploy("--model", models[0], "--config", box.config(found.clip), *options(found))
        assert done.returncode == 0, done.stdout + done.stderr
        yield found


def write_other(source: Path, target: Path, golden_off_by: int = 0) -> None:
    """Write the same network under another name; with wrong recorded results, if asked."""
    bundle = file.read(source)
    assert bundle.manifest is not None
    assert bundle.golden is not None
    outputs = tuple((output + golden_off_by).astype(output.dtype) for output in bundle.golden.outputs)
    golden = file.Golden(bundle.golden.inputs, outputs if golden_off_by else bundle.golden.outputs)
    file.write(target, bundle.model, replace(bundle.manifest, name=target.stem), golden)


def write_wheelhouse(folder: Path, pad: str) -> None:
    """Write a wheelhouse for this Python: edgecnn itself; the rest this machine's system has."""
    folder.mkdir(exist_ok=True)
    name, content = own_wheel() if not list(folder.glob("*.whl")) else _known(folder)
    (folder / name).write_bytes(content)
    (folder / "pad.txt").write_text(pad)
    names = (name, "pad.txt")
    files = tuple(
        wheelhouse.Wheel(n, digest(str(folder / n)) or "", (folder / n).stat().st_size) for n in names
    )
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    index = wheelhouse.Wheelhouse("this machine", python, files)
    (folder / wheelhouse.INDEX).write_bytes(msgspec.json.encode(index))


def _known(folder: Path) -> tuple[str, bytes]:
    (path,) = folder.glob("*.whl")
    return path.name, path.read_bytes()


def options(found: Field, probation_s: float = PROBATION_S) -> tuple[str | Path, ...]:
    return ("--wheelhouse", found.wheels, "--probation", str(probation_s))


# What breaks -------------------------------------------------------------------------------------------


def cut_the_link(found: Field, workstation: subprocess.Popen[str]) -> None:
    found.box.cut()


def kill_the_workstation(found: Field, workstation: subprocess.Popen[str]) -> None:
    workstation.kill()


def kill_the_device_side(found: Field, workstation: subprocess.Popen[str]) -> None:
    found.box.kill("memfd_create")
    found.box.kill("agent.pyz")


def fill_the_disk(found: Field, workstation: subprocess.Popen[str]) -> None:
    if found.box.has_own_disk:
        found.box.fill_disk()
        found.full = True


def truncate_the_model(found: Field, workstation: subprocess.Popen[str]) -> None:
    _change_new(found, lambda path: os.truncate(path, path.stat().st_size // 2))


def break_the_golden_output(found: Field, workstation: subprocess.Popen[str]) -> None:
    bad = found.box.folder / "bad.tflite"
    write_other(found.models[0], bad, golden_off_by=1)
    _change_new(found, lambda path: path.write_bytes(bad.read_bytes()))


def _change_new(found: Field, change: Callable[[Path], object]) -> None:
    for path in found.box.root.glob("slots/*/*.tflite"):
        if digest(str(path)) == found.new:
            change(path)


def kill_the_watch(found: Field, workstation: subprocess.Popen[str]) -> None:
    found.box.kill("bin/edgecnn", "watch.toml", "watch ")


def reboot(found: Field, workstation: subprocess.Popen[str]) -> None:
    found.box.power_off()
    found.box.boot()


FAULTS: tuple[Callable[[Field, subprocess.Popen[str]], None], ...] = (
    cut_the_link,
    kill_the_workstation,
    kill_the_device_side,
    fill_the_disk,
    truncate_the_model,
    break_the_golden_output,
    kill_the_watch,
    reboot,
)


@dataclass(frozen=True)
class Outcome:
    """What was there after a deploy that was broken.

    Attributes:
        moment: After which step, or at the beginning of which phase.
        fault: What broke.
        runs: ``old``, ``new`` or ``NEITHER``.
        while_broken: The same, before what was broken was mended.
        exit_code: Of the deploy; negative if it was killed.
        said: Its last words.
        seconds: From the fault until the device had settled.
    """

    moment: str
    fault: str
    runs: str
    while_broken: str
    exit_code: int
    said: str
    seconds: float

    @property
    def is_whole(self) -> bool:
        return "NEITHER" not in (self.runs, self.while_broken)


def break_at(found: Field, moment: str, fault: Callable[[Field, subprocess.Popen[str]], None]) -> Outcome:
    """Deploy the other model, and break it once a step is done, or once the device is in a phase."""
    box, new_model = found.box, found.new_model()
    old, new = box.watching(), digest(str(new_model))
    found.new = new
    fails = moment == REVERTING
    config = box.config(found.short_clip if fails else found.clip)
    asked = options(found, UNTIL_IT_DIES_S if fails else PROBATION_S)
    command = box.command("--model", new_model, "--config", config, *asked)
    workstation = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(workstation.stdout or ()), daemon=True)
    if moment in dict(PHASES):
        reader.start()
        assert until(lambda: box.state().get("phase") == moment, 60), said
    else:
        for line in workstation.stdout or ():
            said.append(line)
            if line.startswith(f"ok {moment}"):
                break
        reader.start()
    began_s = time.monotonic()
    fault(found, workstation)
    while_broken = "as after"
    if found.full:
        _end(workstation, 15)
        while_broken = _runs(box, old, new)
        box.empty_disk()
        found.full = False
    _end(workstation, 120)
    reader.join()
    assert workstation.stdout is not None
    workstation.stdout.close()
    assert wait_settled(box, 120), (box.state(), said)
    runs = _runs(box, old, new)
    last = (said or ["nothing"])[-1].strip()
    return Outcome(
        moment, fault.__name__, runs, while_broken, workstation.returncode, last, time.monotonic() - began_s
    )


def _end(workstation: subprocess.Popen[str], seconds: float) -> None:
    try:
        workstation.wait(seconds)
    except subprocess.TimeoutExpired:
        workstation.kill()
        workstation.wait()


def _runs(box: PiBox, old: str, new: str | None) -> str:
    """Tell which of the two watches, frames flowing; and that it is whole and the one that is named."""
    known = {old: "old", new: "new"}
    until(lambda: box.watching() in known, 60)
    running = box.watching()
    slot = (box.root / "current").resolve()
    is_whole = digest(str(slot / "fire.tflite")) == running
    is_named = box.state().get("phase") != SETTLED or slot.name == box.state()["slot"]
    return known.get(running, "NEITHER") if is_whole and is_named else "NEITHER"


def table(outcomes: list[Outcome]) -> str:
    """Show what ran after each, with the exit code of the deploy."""
    columns = [fault.__name__.replace("_", " ") for fault in FAULTS]
    rows = [["after", *columns]]
    for moment in MOMENTS:
        row = [moment]
        for fault in FAULTS:
            here = [o for o in outcomes if (o.moment, o.fault) == (moment, fault.__name__)]
            row.append(", ".join(f"{o.runs} ({o.exit_code})" for o in here))
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)) for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moment", choices=MOMENTS, action="append")
    parser.add_argument("--fault", choices=[fault.__name__ for fault in FAULTS], action="append")
    asked = parser.parse_args()
    outcomes = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the device is switched off
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, field_of(Path(folder)) as found:
        for moment in asked.moment or MOMENTS:
            for fault in FAULTS:
                if asked.fault and fault.__name__ not in asked.fault:
                    continue
                if moment == "send":
                    found.need_new_environment()
                outcome = break_at(found, moment, fault)
                print(outcome, flush=True)
                outcomes.append(outcome)
    print(f"\n{table(outcomes)}\n\n{len(outcomes)} broken deploys, probation {PROBATION_S} s")
    broken = [o for o in outcomes if not o.is_whole]
    print(f"neither model ran, or not the one that is named: {len(broken)}")
    return 3 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
