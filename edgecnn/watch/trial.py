"""Looks before it is trusted: model, signature, recorded pictures, configuration, and one frame."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from edgecnn.bundle import signature
from edgecnn.core.frame import Frame
from edgecnn.errors import BundleError, EdgecnnError, RecipeError, RuntimeFault
from edgecnn.runtime.predictor import FLOAT_TOLERANCE, TflitePredictor, load, verify_golden
from edgecnn.watch import config as configs
from edgecnn.watch.config import Config
from edgecnn.watch.sources.open import open_source

FRAME_WITHIN_S: Final = 60.0
"""A Pi camera gives its first frame within 2 s, a stream within 10; a hub that wakes up takes longer."""


@dataclass(frozen=True, slots=True)
class Page:
    """Where the watch can be asked how it is, from the machine that it runs on.

    Attributes:
        url: Without a slash at its end.
        token_env: As in ``[web]``.
        token_file: As in ``[web]``; empty for none.
    """

    url: str
    token_env: str
    token_file: str


@dataclass(frozen=True, slots=True)
class Look:
    """One frame, and what came of it."""

    width_px: int
    height_px: int
    invoke_ms: float
    taken_after_s: float


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found; that there is one says that nothing was wrong.

    Attributes:
        name: Of the model.
        sha256: Of the file.
        precision: Of the model.
        runtime: The interpreter that replayed the recorded pictures.
        golden_count: Recorded pictures that gave the recorded results; 0 where a delegate computes.
        tolerance: How far a result may lie from the recorded one: 0 for integers.
        signer: Name of the trusted key; empty where none was asked for.
        version: As signed; None for an unsigned file.
        web: Where the watch can be asked how it is; None without a configuration.
        frame: None where none was asked for.
    """

    name: str
    sha256: str
    precision: str
    runtime: str
    golden_count: int
    tolerance: float
    signer: str
    version: int | None
    web: Page | None
    frame: Look | None


def prove(
    path: Path, config_path: Path | None = None, trust: Path | None = None, frame: bool = False
) -> Proof:
    """Find out whether a model, and the configuration that names it, can be trusted on this machine.

    Args:
        path: The model file.
        config_path: A ``watch.toml`` that watches with this model; None to look at the model alone.
        trust: A public key or a folder of them, one of which must have signed; None to ask for none.
        frame: Whether to take one frame from the source of the configuration.

    Raises:
        EdgecnnError: For the first thing that is wrong.
    """
    signer = signature.verify(path, signature.read_trusted(trust)) if trust else None
    config = configs.load(config_path) if config_path else None
    threads = config.model.threads or None if config else None
    delegate = config.model.delegate or None if config else None
    predictor = load(path, None, threads, delegate)
    # A delegate rounds in its own way; what it computes is not compared with what a CPU did.
    replayed = None if delegate else predictor.golden
    if delegate is None and predictor.golden is None and predictor.manifest is not None:
        raise BundleError(
            f"'{path.name}' holds no recorded pictures, so nobody can tell whether this machine computes "
            "what the maker's did.",
            fix="Convert the model again with 'edgecnn convert'.",
        )
    if replayed is not None:
        verify_golden(predictor)
    if config is not None:
        _check(config, path, predictor)
    is_float = any(spec.dtype.startswith("float") for spec in predictor.interpreter.outputs)
    return Proof(
        name=predictor.name,
        sha256=predictor.sha256,
        precision=predictor.precision,
        runtime=predictor.interpreter.runtime,
        golden_count=len(replayed.inputs) if replayed else 0,
        tolerance=FLOAT_TOLERANCE if is_float else 0.0,
        signer=signer.key.name if signer else "",
        version=signer.version if signer else signature.version(path),
        web=_page(config) if config and config.web.port else None,
        frame=_look(config, predictor) if config and frame else None,
    )


def _check(config: Config, path: Path, predictor: TflitePredictor) -> None:
    """Refuse a configuration of another model, or one that names what is not there."""
    if config.model.path.resolve() != path.resolve():
        raise RecipeError(
            f"The configuration watches with '{config.model.path}', not with '{path}'.",
            fix=f'Write path = "{path.name}" in its [model].',
        )
    known = {label for head in predictor.heads for label in head.labels}
    unknown = sorted({policy.label for policy in config.alarm} - known)
    if unknown:
        raise RecipeError(
            f"There is an [[alarm]] for '{unknown[0]}'; the model knows {', '.join(sorted(known))}.",
            fix="Name a label of the model in [[alarm]].",
        )
    if config.mqtt is not None:
        configs.secret(config.mqtt.password_env, config.mqtt.password_file, "password of the broker")
    if config.webhook is not None:
        configs.secret(config.webhook.secret_env, config.webhook.secret_file, "key of the webhook")
    configs.secret(config.web.token_env, config.web.token_file, "token of the page")


def _page(config: Config) -> Page:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.web.host, config.web.host)
    url = f"http://{host}:{config.web.port}"
    return Page(url, config.web.token_env, str(config.web.token_file or ""))


def _look(config: Config, predictor: TflitePredictor) -> Look:
    """Take one frame, and look at it.

    Raises:
        RuntimeFault: If none comes in time.
    """
    began_s = perf_counter()
    frame = _first_frame(config)
    taken_after_s = perf_counter() - began_s
    prediction = predictor.predict(frame)
    height_px, width_px = frame.pixels_rgb.shape[:2]
    return Look(width_px, height_px, prediction.times.invoke_ms, taken_after_s)


def _first_frame(config: Config) -> Frame:
    # On a thread: a driver that hangs cannot be interrupted, and must not hold up the verdict.
    found: queue.SimpleQueue[Frame | BaseException] = queue.SimpleQueue()

    def take() -> None:
        try:
            source = open_source(config.source)
            try:
                found.put(next(iter(source)))
            finally:
                source.close()
        except BaseException as error:
            found.put(error)

    threading.Thread(target=take, name="frame", daemon=True).start()
    try:
        first = found.get(timeout=FRAME_WITHIN_S)
    except queue.Empty:
        first = TimeoutError()
    if isinstance(first, Frame):
        return first
    if isinstance(first, EdgecnnError):
        raise first
    raise RuntimeFault(
        f"'{config.source.uri}' gave no frame within {FRAME_WITHIN_S:g} s."
        if isinstance(first, TimeoutError)
        else f"'{config.source.uri}' gave no frame: {first or type(first).__name__}.",
        fix="Check the cable, and that no other program has the camera: sudo fuser -v /dev/video*.",
    ) from first
