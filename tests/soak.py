"""Run a whole camera box for an hour, at 30 frames/s, and see whether it stays as it was.

The box is a child process with everything switched on: picamera's stand-in as the camera, journal, clips
under a small quota, page and metrics, with a browser's requests all the while. An orange wall appears and
goes, so that incidents come and go, too.

A frame can be late because of the box, or because others on this machine held the cores that its threads
waited for: the kernel counts that wait, and what others used is written down, so that both are told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FRAMES_PER_SECOND = 30.0
PERIOD_MS = 1e3 / FRAMES_PER_SECOND
EVERY_S = 5.0
BUSY_CORES = 0.5
"""From here on others count as present."""
RSS_GROWTH_MB, RSS_MB, FIRST_S = 2.0, 150.0, 1.5
MB = 1024 * 1024

TOML = """
device = "soak"
[model]
path = {model}
threads = 1
[source]
uri = "picamera"
frames_per_second = {rate}
[[alarm]]
label = "fire"
cooldown_s = 20
update_every_s = 5
[journal]
folder = {folder}
[clips]
pre_roll_s = 2
post_roll_s = 3
quota_mb = 3
[web]
port = {port}
"""


def tell(**said: object) -> None:
    """Write one line: threads that print at once would mix theirs."""
    with _TELLING:
        print(json.dumps(said), flush=True)


_TELLING = threading.Lock()


def waited_ms() -> float:
    """Say how long the threads that a frame passes through have waited for a core until now.

    Source: Linux, Documentation/scheduler/sched-stats.rst: the second number of ``schedstat``, in
    nanoseconds.
    """
    found = [thread.native_id for thread in threading.enumerate() if thread.name in ("capture", "watch")]
    files = [Path(f"/proc/self/task/{number}/schedstat") for number in found]
    return sum(int(file.read_text(encoding="ascii").split()[1]) for file in files) / 1e6


class Meter:
    """A sink that notes how old each frame was when it had been decided on."""

    def __init__(self, began_s: float) -> None:
        self._began_s, self._window = began_s, list[tuple[float, ...]]()
        self._due_s = time.monotonic() + EVERY_S
        self._is_first = True
        self._waited_ms = 0.0

    def on_prediction(self, frame, prediction) -> None:  # type: ignore[no-untyped-def]
        now_s = time.monotonic()
        if self._is_first:
            self._is_first = False
            tell(first_s=time.time() - self._began_s)
        before_ms, self._waited_ms = self._waited_ms, waited_ms()
        waits_ms = self._waited_ms - before_ms
        age_ms = 1e3 * (now_s - frame.captured_at_s)
        self._window.append((age_ms, prediction.times.total_ms, waits_ms, time.time() - self._began_s))
        if now_s >= self._due_s:
            self._due_s = now_s + EVERY_S
            tell(frames=self._window)
            self._window = []

    def on_event(self, event) -> None:  # type: ignore[no-untyped-def]
        tell(event=event.kind, label=event.label)

    def close(self) -> None:
        pass


def child(toml: Path, began_s: float) -> None:
    """Be the box: what `edgecnn watch` does, and the meter."""
    from edgecnn.watch import box, config

    box.run(config.load(toml), toml, {"meter": Meter(began_s)}, lambda line: print(line, file=sys.stderr))


@dataclass
class Sample:
    at_s: float
    rss_mb: float
    descriptors: int
    threads: int
    own_s: float
    busy_s: float


def sample(pid: int, at_s: float) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    values = dict(line.split(":", 1) for line in status.splitlines())
    count = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    ticks = os.sysconf("SC_CLK_TCK")
    # proc(5): user and system time are fields 14 and 15 of a process, 1 and 3 of all cores, nice is 2.
    own = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    cores = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    own_s = (int(own[11]) + int(own[12])) / ticks
    busy_s = sum(map(int, cores[1:4])) / ticks
    rss_mb = int(values["VmRSS"].split()[0]) / 1024
    return Sample(at_s, rss_mb, count, int(values["Threads"]), own_s, busy_s)


def others(samples: list[Sample]) -> NDArray[np.float64]:
    """Say how many cores others used from each sample to the next; this program's browser among them."""
    busy, own, at = (np.array([getattr(s, name) for s in samples]) for name in ("busy_s", "own_s", "at_s"))
    used: NDArray[np.float64] = (np.diff(busy) - np.diff(own)) / np.diff(at)
    return np.maximum(used, 0)


def browse(url: str, done: threading.Event) -> None:
    """Ask as a page that is looked at does; a page that is left open for an hour, now and then hidden."""
    asked = 0
    while not done.wait(0.1):
        asked += 1
        paths = ["api/live?width=640"] if asked % 600 < 300 else []
        paths += ["api/state", "api/history?seconds=120"] if asked % 10 == 0 else []
        paths += ["metrics"] if asked % 150 == 0 else []
        for path in paths:
            try:
                with urllib.request.urlopen(url + path, timeout=5) as answer:
                    answer.read()
            except (OSError, urllib.error.HTTPError):  # noqa: PERF203  not up yet, or on its way out
                pass


def run(model: Path, clip: Path, minutes: float, folder: Path) -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    toml = folder / "watch.toml"
    values = {"model": json.dumps(str(model)), "folder": json.dumps(str(folder / "state"))}
    toml.write_text(TOML.format(**values, rate=FRAMES_PER_SECOND, port=port), encoding="utf-8")
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent / "pi"),
        "EDGECNN_TEST_CLIP": str(clip),
    }
    began_s = time.time()
    box = subprocess.Popen(
        [sys.executable, __file__, "--child", str(toml), str(began_s)],
        env=environment,
        stdout=subprocess.PIPE,
    )
    lines: list[dict[str, object]] = []
    assert box.stdout is not None
    stdout = box.stdout
    reader = threading.Thread(target=lambda: lines.extend(json.loads(line) for line in stdout), daemon=True)
    reader.start()
    done = threading.Event()
    browser = threading.Thread(target=browse, args=(f"http://127.0.0.1:{port}/", done))
    browser.start()
    samples = []
    try:
        while (at_s := time.time() - began_s) < 60 * minutes:
            time.sleep(EVERY_S)
            if box.poll() is not None:
                print(f"The box ended after {at_s:.0f} s with {box.returncode}.", file=sys.stderr)
                return 1
            samples.append(sample(box.pid, at_s))
    finally:
        done.set()
        browser.join()
        box.send_signal(signal.SIGTERM)
        stop_s = time.time()
        box.wait(20)
        stop_s = time.time() - stop_s
    reader.join(5)
    frames = np.array([row for line in lines for row in line.get("frames", [])])  # type: ignore[union-attr]
    first_s = next(float(line["first_s"]) for line in lines if "first_s" in line)  # type: ignore[arg-type]
    incidents = sum(line.get("event") == "started" for line in lines)
    return report(samples, frames, first_s, incidents, stop_s, minutes, model)


def report(
    samples: list[Sample], frames: NDArray[np.float64], first_s: float, incidents: int, stop_s: float,
    minutes: float, model: Path,
) -> int:  # fmt: skip
    warm_s = min(300.0, 60 * minutes / 3)
    warm = [s for s in samples if s.at_s >= warm_s]
    fifth = max(1, len(warm) // 5)
    early, late = warm[:fifth], warm[-fifth:]
    growth_mb = float(np.median([s.rss_mb for s in late]) - np.median([s.rss_mb for s in early]))
    peak_mb = max(s.rss_mb for s in samples)
    descriptors = float(np.median([s.descriptors for s in late]) - np.median([s.descriptors for s in early]))
    threads = float(np.median([s.threads for s in late]) - np.median([s.threads for s in early]))
    age_ms, total_ms, waits_ms, at_s = frames.T
    is_late = age_ms > 2 * PERIOD_MS + total_ms
    used = others(samples)
    place = np.clip(np.searchsorted([s.at_s for s in samples], at_s) - 1, 0, len(used) - 1)
    is_theirs = is_late & (age_ms - waits_ms <= 2 * PERIOD_MS + total_ms) & (used[place] > BUSY_CORES)
    late_count, theirs_count = int(is_late.sum()), int(is_theirs.sum())
    ages = " / ".join(f"{x:.1f}" for x in np.percentile(age_ms, [50, 99, 100]))
    growth = f"RSS growth after the first {warm_s / 60:.1f} min"
    rows = [
        ("frames looked at", f"{len(frames)}, {len(frames) / (60 * minutes):.1f}/s", "", True),
        ("incidents", str(incidents), "", True),
        (growth, f"{growth_mb:+.2f} MB", f"<= {RSS_GROWTH_MB:g} MB", growth_mb <= RSS_GROWTH_MB),
        ("RSS, highest", f"{peak_mb:.1f} MB", f"<= {RSS_MB:g} MB", peak_mb <= RSS_MB),
        ("descriptors, growth", f"{descriptors:+g} of {late[-1].descriptors}", "<= 0", descriptors <= 0),
        ("threads, growth", f"{threads:+g} of {late[-1].threads}", "<= 0", threads <= 0),
        ("age at decision, p50 / p99 / highest", f"{ages} ms", "", True),
        ("frames older than 2 periods + 1 prediction", f"{late_count}", "", True),
        (
            "of these not because others held the cores",
            f"{late_count - theirs_count}",
            "0",
            late_count == theirs_count,
        ),
        ("cores that others used, mean / highest in 5 s", f"{used.mean():.2f} / {used.max():.2f}", "", True),
        ("start to first decision", f"{first_s:.2f} s", f"<= {FIRST_S:g} s", first_s <= FIRST_S),
        ("SIGTERM to the end", f"{stop_s:.2f} s", "<= 2 s", stop_s <= 2),
    ]
    print(
        f"\n{minutes:g} min at {FRAMES_PER_SECOND:g} frames/s, 640 x 480, '{model.name}', 1 thread, "
        "page looked at half of the time;\n"
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.\n"
    )
    print("| what | found | asked | |\n|---|---|---|---|")
    for what, found, asked, holds in rows:
        print(f"| {what} | {found} | {asked} | {'' if not asked else 'holds' if holds else 'FAILS'} |")
    return 0 if all(holds for *_, holds in rows) else 3


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--model", type=Path, help="default: a small one that is made for this")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(Path(arguments.child[0]), float(arguments.child[1]))
        return 0
    sys.path.insert(0, str(Path(__file__).parent))
    import orange

    with tempfile.TemporaryDirectory(prefix="edgecnn-soak-") as name:
        folder = Path(name)
        model = arguments.model
        if model is None:
            model = folder / "orange.tflite"
            # Made by a child: TensorFlow would take half a gigabyte here for the whole hour.
            make = "import orange, pathlib, sys; orange.write_model(pathlib.Path(sys.argv[1]))"
            subprocess.run([sys.executable, "-c", make, str(model)], cwd=Path(__file__).parent, check=True)
        clip = orange.write_clip(folder / "clip.mp4", calm_s=20, fire_s=5, frames_per_second=2)
        return run(model.resolve(), clip, arguments.minutes, folder)


if __name__ == "__main__":
    sys.exit(main())
