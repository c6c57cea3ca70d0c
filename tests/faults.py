"""Do to a whole camera box what happens to one in the field, and count what is lost.

Run ``python tests/faults.py --kills 200``; the exit code is 3 if an event was lost or doubled, or if a
fault was not survived, not named, or not over within ten seconds after its cause was.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from broker import Broker, Listener, free_port, until
from streams import MjpegServer

RED, BLUE = (200, 40, 30), (30, 40, 200)
RECOVERS_WITHIN_S = 10.0
FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"


def write_model(path: Path) -> None:
    """Make a model, by the real converter, whose score for fire rises with red and falls with blue."""
    import tiny_models

    from edgecnn.workstation.backend import keras, tf

    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input((tiny_models.SIDE, tiny_models.SIDE, 3)),
            layers.Rescaling(1 / 128, offset=-1.0),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    network.set_weights([np.array([[8], [0], [-8]], np.float32), np.zeros(1, np.float32)])
    shape = (1, tiny_models.SIDE, tiny_models.SIDE, 3)
    colours = [np.full(shape, colour, np.float32) for colour in (RED, BLUE, 0, 255)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_keras_model(network)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([colour] for colour in colours)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
        model = bytes(converter.convert())
    tiny_models.write(path, model, labels=("no_fire", "fire"), kind="sigmoid")


@dataclass
class Box:
    """A camera box: the real program, watching a real stream, telling a real broker."""

    folder: Path
    camera_url: str
    broker_port: int
    alarm: str = "half_life_s = 0\nminimum_s = 0\ncooldown_s = 0\nupdate_every_s = 0.1\n"
    page_port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "watch.toml"

    @property
    def model(self) -> Path:
        return self.folder / "fire.tflite"

    @property
    def handed_over(self) -> Path:
        """Grows by a line whenever the sinks have taken an event: what may not be lost from then on."""
        return self.folder / "handed_over"

    def text(self) -> str:
        return (
            f'device = "yard"\n[model]\npath = "{self.model}"\nthreads = 1\n'
            f'[source]\nuri = "{self.camera_url}"\nself_test = false\nstalled_after_s = 2\n'
            f'[[alarm]]\nlabel = "fire"\n{self.alarm}'
            f'[journal]\nfolder = "{self.folder / "state"}"\n[clips]\nquota_mb = 1\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {self.broker_port}\n[web]\nport = {self.page_port}\n'
        )

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--box", str(self.config), str(self.handed_over)],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> float:
        """Ask it to end, and say how long that took."""
        began_s = time.monotonic()
        self.signal(signal.SIGTERM)
        self.wait()
        return time.monotonic() - began_s

    def wait(self) -> None:
        assert self.process is not None
        self.process.wait(30)
        self.process = None

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def status(self) -> dict[str, Any]:
        """Ask its page how it is; empty if it does not answer."""
        with contextlib.suppress(OSError, ValueError):
            url = f"http://127.0.0.1:{self.page_port}/api/state"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return dict(json.load(answer)["status"])
        return {}

    def is_watching(self) -> bool:
        return self.status().get("state") == "watching"

    def fault(self, name: str) -> str:
        """Give the words for a fault that lasts; empty if none of this name does."""
        found = [fault["detail"] for fault in self.status().get("faults", ()) if fault["name"] == name]
        return found[0] if found else ""

    def handed(self) -> list[tuple[str, str, int]]:
        with contextlib.suppress(FileNotFoundError):
            rows = [line.split() for line in self.handed_over.read_text().splitlines()]
            return [(row[0], row[1], int(row[2])) for row in rows if len(row) == 3]
        return []


def run_box(config: Path, handed_over: Path) -> None:
    """Be the box; note what the sinks were given, once they have taken it."""
    from edgecnn.core.alarm import Event
    from edgecnn.watch import box
    from edgecnn.watch import config as configs
    from edgecnn.watch.sinks.outbox import Outbox

    log = os.open(handed_over, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    class Noted(Outbox):
        def on_event(self, event: Event) -> None:
            super().on_event(event)
            os.write(log, f"{event.incident_id} {event.kind} {event.frame_index}\n".encode())

    box.Outbox = Noted  # type: ignore[attr-defined,misc]
    in_time = box.run(configs.load(config), config, {}, lambda text: print(text, flush=True))
    os._exit(0 if in_time else 9)


@dataclass(frozen=True)
class Losses:
    """What came of the events while the program was killed."""

    kills: int
    broker_stops: int
    handed_over: int
    in_journal: int
    heard: int
    lost: int
    doubled: int
    out_of_order: int
    told_again: int
    seconds: float


def kill(count: int, folder: Path, model: Path, seed: int = 1) -> Losses:
    """Kill the box at random moments while the broker goes up and down and it burns every second."""
    began_s, chance = time.monotonic(), random.Random(seed)
    broker = Broker(folder / "broker")
    broker.start()
    listener = Listener(broker.port, "edgecnn/yard/events")
    camera = MjpegServer()
    box = Box(folder / "box", camera.url, broker.port)
    box.folder.mkdir()
    box.config.write_text(box.text())
    shutil.copy(model, box.model)
    over = threading.Event()
    flicker = threading.Thread(target=_flicker, args=(camera, over))
    flap = _Flapping(broker, over, seed)
    flicker.start()
    flap.start()
    try:
        for _ in range(count):
            before = len(box.handed())
            box.start()
            if chance.random() < 0.2:  # somewhere in its start
                time.sleep(chance.uniform(0, 2))
            else:
                assert until(lambda b=before: len(box.handed()) > b, 60), (box.folder / "log").read_text()
                time.sleep(chance.expovariate(1))
            box.kill()
        over.set()
        flicker.join()
        flap.join()
        camera.colour_rgb = BLUE
        if broker.process is None:
            broker.start()
        box.start()
        assert until(box.is_watching, 60)
        ids = [event["event_id"] for event in journal_of(box)]
        until(lambda: set(ids) <= {m.json["id"] for m in tuple(listener.messages)}, 120)
        box.stop()
    finally:
        over.set()
        if box.is_alive():
            box.kill()
        camera.close()
        listener.close()
        broker.stop()
    return compare(box, listener, count, flap.stops, time.monotonic() - began_s)


def compare(box: Box, listener: Listener, kills: int, stops: int, seconds: float) -> Losses:
    """Compare what was handed over, what was kept, and what was heard."""
    events = journal_of(box)
    names = [(event["incident_id"], event["kind"], event["frame_index"]) for event in events]
    heard = [message.json for message in listener.messages]
    first_heard = list(dict.fromkeys(said["id"] for said in heard))
    ids = [event["event_id"] for event in events]
    of_heard = {said["id"]: (said["incident_id"], said["kind"], said["frame_index"]) for said in heard}
    lost = (Counter(box.handed()) - Counter(names)).total() + len(set(ids) - set(of_heard))
    doubled = sum(n - 1 for n in Counter(of_heard.values()).values()) + len(set(of_heard) - set(ids))
    place = {event_id: number for number, event_id in enumerate(ids)}
    places = [place[event_id] for event_id in first_heard if event_id in place]
    return Losses(
        kills=kills,
        broker_stops=stops,
        handed_over=len(box.handed()),
        in_journal=len(ids),
        heard=len(of_heard),
        lost=lost,
        doubled=doubled,
        out_of_order=sum(later < earlier for earlier, later in itertools.pairwise(places)),
        told_again=len(heard) - len(of_heard),
        seconds=seconds,
    )


def journal_of(box: Box) -> list[dict[str, Any]]:
    """Read the journal with other eyes than those that wrote it."""
    import sqlite3

    uri = f"file:{box.folder / 'state' / 'journal.sqlite3'}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        return [
            json.loads(body) for (body,) in connection.execute("SELECT body FROM events ORDER BY sequence")
        ]


def _flicker(camera: MjpegServer, over: threading.Event) -> None:
    while not over.wait(0.2):
        camera.colour_rgb = BLUE if camera.colour_rgb == RED else RED


class _Flapping(threading.Thread):
    def __init__(self, broker: Broker, over: threading.Event, seed: int) -> None:
        super().__init__()
        self.stops = 0
        self._broker, self._over, self._chance = broker, over, random.Random(seed + 1)

    def run(self) -> None:
        while not self._over.wait(self._chance.uniform(1, 8)):
            self._broker.stop()
            self.stops += 1
            self._over.wait(self._chance.uniform(0.5, 5))
            self._broker.start()


@dataclass(frozen=True)
class Row:
    """One fault, and what became of it; None where there is nothing to say."""

    fault: str
    named: str | None
    survived: bool
    recovered_s: float | None
    note: str = ""

    @property
    def is_good(self) -> bool:
        in_time = self.recovered_s is not None and self.recovered_s <= RECOVERS_WITHIN_S
        return self.survived and self.named != "" and in_time


@dataclass
class Scene:
    """A box that watches, with everything around it."""

    box: Box
    broker: Broker
    listener: Listener
    camera: MjpegServer

    def alarm(self) -> float:
        """Light a fire, and say after how many seconds the broker's listener knows; then put it out."""
        known = len(self.started())
        began_s = time.monotonic()
        self.camera.colour_rgb = RED
        is_heard = until(lambda: len(self.started()) > known, 30)
        took_s = time.monotonic() - began_s
        self.camera.colour_rgb = BLUE
        until(lambda: self.listener.of("/events")[-1].json["kind"] == "ended", 10)
        return took_s if is_heard else float("inf")

    def started(self) -> list[Any]:
        return [m for m in self.listener.of("/events") if m.json["kind"] == "started"]

    def seconds_until(self, is_so: Callable[[], Any]) -> float | None:
        began_s = time.monotonic()
        return time.monotonic() - began_s if until(is_so, 30) else None


@contextlib.contextmanager
def scene(folder: Path, model: Path, environment: dict[str, str] | None = None) -> Iterator[Scene]:
    broker = Broker(folder / "broker")
    broker.start()
    listener = Listener(broker.port)
    camera = MjpegServer()
    camera.colour_rgb = BLUE
    box = Box(folder / "box", camera.url, broker.port, environment=environment or {})
    (box.folder / "state").mkdir(parents=True)
    box.config.write_text(box.text())
    shutil.copy(model, box.model)
    here = Scene(box, broker, listener, camera)
    try:
        yield here
    finally:
        if box.is_alive():
            box.kill()
        here.camera.close()
        listener.close()
        broker.stop()


@contextlib.contextmanager
def watching(folder: Path, model: Path, environment: dict[str, str] | None = None) -> Iterator[Scene]:
    with scene(folder, model, environment) as here:
        here.box.start()
        assert until(here.box.is_watching, 60), (here.box.folder / "log").read_text()
        yield here


def camera_unplugged(folder: Path, model: Path) -> Row:
    with watching(folder, model) as here:
        here.camera.close()
        until(lambda: here.box.fault("source"), 10)
        named, state = here.box.fault("source"), here.box.status().get("state")
        here.camera = MjpegServer(here.camera.port)
        here.camera.colour_rgb = BLUE
        recovered_s = here.seconds_until(lambda: here.box.is_watching() and not here.box.fault("source"))
        return Row("camera unplugged", named, here.box.is_alive(), recovered_s, f"state '{state}'")


def stream_stalled(folder: Path, model: Path) -> Row:
    with watching(folder, model) as here:
        here.camera.stalled.set()
        until(lambda: here.box.fault("source"), 15)
        named, state = here.box.fault("source"), here.box.status().get("state")
        here.camera.stalled.clear()
        recovered_s = here.seconds_until(lambda: here.box.is_watching() and not here.box.fault("source"))
        return Row("stream stalled, not closed", named, here.box.is_alive(), recovered_s, f"state '{state}'")


def broker_gone(folder: Path, model: Path) -> Row:
    with watching(folder, model) as here:
        here.alarm()
        known = len(here.started())
        here.broker.stop()
        here.camera.colour_rgb = RED
        until(lambda: here.box.fault("mqtt"), 10)
        named = here.box.fault("mqtt")
        here.camera.colour_rgb = BLUE
        time.sleep(1)
        here.broker.start()
        recovered_s = here.seconds_until(lambda: len(here.started()) > known and not here.box.fault("mqtt"))
        return Row("broker gone", named, here.box.is_alive(), recovered_s, "its events arrive")


def disk_full(folder: Path, model: Path) -> Row:
    with scene(folder, model) as here:
        state = here.box.folder / "state"
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(state)]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
            return Row("disk full", None, True, 0.0, "NOT TRIED: needs the right to mount a small disk")
        try:
            here.box.start()
            assert until(here.box.is_watching, 60)
            ballast = state / "ballast"
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(512))
            slowest_s = max(here.alarm() for _ in range(12))
            until(lambda: here.box.fault("journal"), 10)
            named = here.box.fault("journal")
            ballast.unlink()
            recovered_s = here.seconds_until(lambda: not here.box.fault("journal"))
            note = f"alarms told meanwhile within {slowest_s:.1f} s"
            handed = here.box.handed()
            here.box.stop()
            kept = [(e["incident_id"], e["kind"], e["frame_index"]) for e in journal_of(here.box)]
            missing = (Counter(handed) - Counter(kept)).total()
            return Row("disk full", named, missing == 0, recovered_s, f"{note}, {missing} events missing")
        finally:
            subprocess.run(["umount", "--lazy", str(state)], check=False)


def clock_set(folder: Path, model: Path, days: int) -> Row:
    name = f"clock set {'forward' if days > 0 else 'back'} by {abs(days)} days"
    library = next(iter(Path("/").glob(FAKETIME.lstrip("/"))), None)
    if library is None:
        return Row(name, None, True, 0.0, "NOT TRIED: needs apt's faketime")
    offset = folder / "offset"
    folder.mkdir(parents=True, exist_ok=True)
    offset.write_text("+0d\n")
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with watching(folder, model, environment) as here:
        here.alarm()
        offset.write_text(f"{days:+d}d\n")
        until(lambda: here.box.fault("clock"), 10)
        named = here.box.fault("clock")
        took_s = here.alarm()
        events = here.listener.of("/events")
        kept = [event["event_id"] for event in journal_of(here.box)]
        in_order = [m.json["id"] for m in events] == kept[: len(events)]
        jump_s = journal_of(here.box)[-1]["at_utc_s"] - journal_of(here.box)[0]["at_utc_s"]
        assert abs(jump_s - days * 86400) < 600, jump_s
        note = f"next alarm told within {took_s:.1f} s, events {'in' if in_order else 'OUT OF'} order"
        return Row(name, named, here.box.is_watching() and in_order, took_s, note)


def corrupt_model(folder: Path, model: Path) -> Row:
    with watching(folder, model) as here:
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 0xFF
        return _reload(here, "corrupt model at reload", here.box.model, bytes(data))


def corrupt_config(folder: Path, model: Path) -> Row:
    with watching(folder, model) as here:
        text = here.box.text().replace("[model]", "[modle]")
        return _reload(here, "corrupt configuration at reload", here.box.config, text.encode())


def _reload(here: Scene, name: str, file: Path, wrong: bytes) -> Row:
    right = file.read_bytes()
    _replace(file, wrong)
    here.box.signal(signal.SIGHUP)
    log = here.box.folder / "log"
    until(lambda: "refused" in log.read_text(), 10)
    said = [line for line in log.read_text().splitlines() if "refused" in line]
    named = here.box.fault("reload") or (said[-1] if said else "")
    alarm_s = here.alarm()
    _replace(file, right)
    here.box.signal(signal.SIGHUP)
    recovered_s = here.seconds_until(lambda: here.box.is_watching() and not here.box.fault("reload"))
    survived = here.box.is_alive() and alarm_s < RECOVERS_WITHIN_S
    return Row(name, named, survived, recovered_s, f"the old one raised an alarm within {alarm_s:.1f} s")


def _replace(file: Path, data: bytes) -> None:
    part = file.with_suffix(".part")
    part.write_bytes(data)
    part.replace(file)


FAULTS: dict[str, Callable[[Path, Path], Row]] = {
    "camera": camera_unplugged,
    "stalled": stream_stalled,
    "broker": broker_gone,
    "disk": disk_full,
    "back": lambda folder, model: clock_set(folder, model, -400),
    "forward": lambda folder, model: clock_set(folder, model, 400),
    "model": corrupt_model,
    "config": corrupt_config,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=[*FAULTS, "kills"], action="append")
    parser.add_argument("--box", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.box:
        run_box(*arguments.box)
    wanted = arguments.only or [*FAULTS, "kills"]
    is_good = True
    with tempfile.TemporaryDirectory(prefix="edgecnn-faults-") as name:
        folder = Path(name)
        model = folder / "model.tflite"
        write_model(model)
        if set(wanted) & set(FAULTS):
            print("| fault | survived | recovered | named | |\n|---|---|---|---|---|", flush=True)
        for fault in (fault for fault in FAULTS if fault in wanted):
            row = FAULTS[fault](folder / fault, model)
            is_good = is_good and row.is_good
            recovered = "never" if row.recovered_s is None else f"{row.recovered_s:.1f} s"
            survived = "yes" if row.survived else "NO"
            named = "-" if row.named is None else row.named or "NOT NAMED"
            print(f"| {row.fault} | {survived} | {recovered} | {named} | {row.note} |", flush=True)
        if "kills" in wanted:
            (folder / "kills").mkdir()
            losses = kill(arguments.kills, folder / "kills", model, arguments.seed)
            is_good = is_good and losses.lost == losses.doubled == losses.out_of_order == 0
            print(
                f"\n{losses.kills} kill -9 and {losses.broker_stops} stops of the broker in "
                f"{losses.seconds:.0f} s: {losses.handed_over} events handed over, {losses.in_journal} in "
                f"the journal (with those that end what was interrupted), {losses.heard} heard.\n"
                f"lost {losses.lost}, doubled by id {losses.doubled}, out of order {losses.out_of_order}, "
                f"told again by the same id {losses.told_again}"
            )
    return 0 if is_good else 3


if __name__ == "__main__":
    sys.exit(main())
