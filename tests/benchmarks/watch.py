"""The loop against what a user would write: OpenCV read, resize, invoke, in one thread.

A camera process serves 640 x 480 JPEGs over HTTP, each with the moment of its capture drawn into it, so that
the age of a frame at its decision is read from the picture itself, for both loops alike.

Example:
    python tests/benchmarks/watch.py mobilenet_v2_1.0_224_quant.tflite
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import cv2
import numpy as np

from edgecnn.core.alarm import AlarmPolicy
from edgecnn.core.frame import Frame, Pixels, resize
from edgecnn.core.prediction import Prediction
from edgecnn.measure.latency import noise_frames
from edgecnn.runtime.predictor import TflitePredictor, load
from edgecnn.watch.config import Config, JournalConfig, ModelConfig, SourceConfig, WebConfig
from edgecnn.watch.history import History
from edgecnn.watch.loop import Watch
from edgecnn.watch.sinks.outbox import Outbox
from edgecnn.watch.sources.open import open_source

HEIGHT, WIDTH = 480, 640
BITS, SIDE = 40, 16
FPS_TARGET, COST_TARGET_MS = 0.95, 1.0


def stamp(pixels: Pixels) -> None:
    """Draw the time in tenths of milliseconds as black and white squares."""
    tenths = int(time.monotonic() * 1e4)
    for bit in range(BITS):
        left = bit * SIDE
        pixels[:SIDE, left : left + SIDE] = 255 * (tenths >> bit & 1)


def stamped_at_s(pixels: Pixels) -> float:
    """Read it again."""
    row = pixels[SIDE // 2, SIDE // 2 : BITS * SIDE : SIDE, 1] > 127
    return sum(int(on) << bit for bit, on in enumerate(row)) / 1e4


def serve(port: multiprocessing.Queue[int], rate_hz: float) -> None:
    """Be a camera that takes pictures at its own pace; one that nobody reads is lost to nobody else."""
    backgrounds = noise_frames(HEIGHT, WIDTH)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            began_s = time.monotonic()
            try:
                for index in range(sys.maxsize):
                    time.sleep(max(0.0, began_s + index / rate_hz - time.monotonic()))
                    pixels = cv2.blur(backgrounds[index % len(backgrounds)].pixels_rgb, (9, 9))
                    stamp(pixels)
                    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_address[1])
    server.serve_forever()


class Slowed:
    """The model, as slow as on a smaller board; what it computes is the real thing."""

    def __init__(self, model: TflitePredictor, takes_s: float) -> None:
        self.name, self.sha256, self.heads, self.input = model.name, model.sha256, model.heads, model.input
        self._model, self._takes_s = model, takes_s
        self.spans: list[tuple[float, float]] = []
        self.predictions: list[Prediction] = []
        self.ages_s: list[float] = []

    def predict(self, frame: Frame) -> Prediction:
        began_s = time.perf_counter()
        prediction = self._model.predict(frame)
        if self._takes_s:
            time.sleep(max(0.0, self._takes_s - (time.perf_counter() - began_s)))
            self.ages_s.append(time.monotonic() - stamped_at_s(frame.pixels_rgb))
        self.spans.append((began_s, time.perf_counter()))
        self.predictions.append(prediction)
        return prediction


@dataclass
class PacedSource:
    """A camera in this process: copies a picture at each tick, as a driver does."""

    rate_hz: float
    is_live: bool = True
    is_realtime: bool = True
    name: str = "paced"
    closed: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[Frame]:
        pictures = [frame.pixels_rgb for frame in noise_frames(HEIGHT, WIDTH)]
        began_s = time.monotonic()
        for index in range(sys.maxsize):
            if self.closed.wait(max(0.0, began_s + index / self.rate_hz - time.monotonic())):
                return
            yield Frame(pictures[index % len(pictures)].copy(), time.monotonic(), index, self.name)

    def close(self) -> None:
        self.closed.set()


def run_ours(model: Slowed, source: object, uri: str, seconds: float) -> Watch:
    with tempfile.TemporaryDirectory() as folder:
        policy = AlarmPolicy(model.heads[0].labels[0])
        config = Config(
            "bench", ModelConfig(Path("bench")), SourceConfig(uri, self_test=True), (policy,),
            JournalConfig(Path(folder)), web=WebConfig(port=0),
        )  # fmt: skip
        outbox = Outbox(config)
        watch = Watch(config, model, source, [outbox, History()])  # type: ignore[arg-type]
        stop = threading.Event()
        threading.Timer(seconds, stop.set).start()
        watch.run(stop)
        return watch


def run_plain(model: TflitePredictor, url: str, takes_s: float, seconds: float) -> tuple[float, list[float]]:
    """What a user would write today."""
    capture = cv2.VideoCapture(url)
    ages_s, began_s = [], time.monotonic()
    while time.monotonic() - began_s < seconds:
        ok, pixels = capture.read()
        if not ok:
            break
        started_s = time.perf_counter()
        model.scores(resize(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), model.input))
        time.sleep(max(0.0, takes_s - (time.perf_counter() - started_s)))
        ages_s.append(time.monotonic() - stamped_at_s(pixels))
    capture.release()
    return len(ages_s) / (time.monotonic() - began_s), ages_s


def alone_s(model: TflitePredictor, seconds: float) -> float:
    """Seconds of resize, invoke and decode with nothing around them, on average over a while."""
    frames = noise_frames(HEIGHT, WIDTH)
    began_s, count = time.perf_counter(), 0
    while time.perf_counter() - began_s < seconds:
        model.predict(frames[count % len(frames)])
        count += 1
    return (time.perf_counter() - began_s) / count


def sustained(model: TflitePredictor, factor: float, seconds: float) -> tuple[float, float]:
    """Give our rate over the best possible one, and the cost beyond resize and invoke in ms."""
    before_s = alone_s(model, seconds / 2)
    source = PacedSource(factor / before_s)
    watched = Slowed(model, 0.0)
    began_s = time.monotonic()
    watch = run_ours(watched, source, "paced", seconds)
    captured_hz = (watch.status().frames_count + watch.status().skipped_count) / (time.monotonic() - began_s)
    after_s = alone_s(model, seconds / 2)
    spans = np.array(watched.spans)
    ours_hz = (len(spans) - 1) / (spans[-1, 0] - spans[0, 0])
    ratio = ours_hz / min(captured_hz, 2 / (before_s + after_s))
    gaps_ms = (spans[1:, 0] - spans[:-1, 1]) * 1e3
    decode_ms = np.median([p.times.decode_ms for p in watched.predictions])
    return ratio, float(np.median(gaps_ms) + decode_ms)


def report_rates(model: TflitePredictor, rounds: int, seconds: float) -> None:
    for factor, words in ((2.0, "twice as fast as"), (0.5, "half as fast as")):
        found = np.array([sustained(model, factor, seconds) for _ in range(rounds)])
        print(
            f"source {words} the model: sustained fps over the best possible "
            f"{np.median(found[:, 0]):.3f} ({found[:, 0].min():.3f} to {found[:, 0].max():.3f}, "
            f"target >= {FPS_TARGET})"
        )
        if factor > 1:
            print(
                f"cost per frame beyond resize and invoke {np.median(found[:, 1]):.3f} ms "
                f"({found[:, 1].min():.3f} to {found[:, 1].max():.3f}, target <= {COST_TARGET_MS})"
            )


def report_ages(model: TflitePredictor, rounds: int, seconds: float, rate_hz: float) -> None:
    takes_s = 2 / rate_hz
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    camera = multiprocessing.Process(target=serve, args=(port, rate_hz), daemon=True)
    camera.start()
    url = f"http://127.0.0.1:{port.get()}/"
    ours, plain, ours_hz, plain_hz = [], [], [], []
    try:
        for _ in range(rounds):
            watched = Slowed(model, takes_s)
            run_ours(watched, open_source(SourceConfig(url)), url, seconds)
            ours += watched.ages_s[5:]
            ours_hz.append((len(watched.spans) - 1) / (watched.spans[-1][0] - watched.spans[0][0]))
            rate, ages_s = run_plain(model, url, takes_s, seconds)
            plain += ages_s[5:]
            plain_hz.append(rate)
    finally:
        camera.kill()
        camera.join()
    bound_ms = (2 / rate_hz + takes_s) * 1e3
    for name, ages_s, rates in (("edgecnn", ours, ours_hz), ("plain OpenCV loop", plain, plain_hz)):
        p50, p99 = np.percentile(np.array(ages_s) * 1e3, [50, 99])
        print(
            f"{name}: age at decision p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {max(ages_s) * 1e3:.0f} ms, "
            f"{np.median(rates):.1f} fps"
        )
    print(
        f"  (camera {rate_hz:g} fps over HTTP, model stretched to {takes_s * 1e3:.0f} ms; "
        f"bound of two periods and one invoke {bound_ms:.0f} ms; {rounds} turns of {seconds:g} s each)"
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=6.0, show_default=True)
@click.option("--rate", default=30.0, show_default=True, help="Of the camera whose frames are dated.")
@click.option("--threads", default=1, show_default=True)
def main(model: Path, rounds: int, seconds: float, rate: float, threads: int) -> None:
    """Print ratios and ages, ours and the plain loop's by turns."""
    loaded = load(model, None, threads)
    alone_ms = alone_s(loaded, 2.0) * 1e3
    print(f"{model.name}, {threads} thread(s), {alone_ms:.1f} ms alone, source {WIDTH} x {HEIGHT}")
    report_rates(loaded, rounds, seconds)
    report_ages(loaded, rounds, seconds, rate)
    if (busy := os.getloadavg()[0]) > (cores := os.cpu_count() or 1):
        print(f"Others used this machine: a load of {busy:.1f} on {cores} cores. Ages suffer from that.")


if __name__ == "__main__":
    main()
