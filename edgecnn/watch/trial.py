"""Looks before it is trusted: model, signature, recorded pictures, configuration, and one frame."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Final

from edgecnn.bundle import file, signature
from edgecnn.core.frame import Frame
from edgecnn.errors import BundleError, EdgecnnError, RecipeError, RuntimeFault
from edgecnn.runtime.predictor import FLOAT_TOLERANCE, TflitePredictor, codes_apart
from edgecnn.runtime.standby import Standby
from edgecnn.watch import config as configs
from edgecnn.watch.config import Config, ModelConfig
from edgecnn.watch.loop import Model, load_model
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
        golden_count: Recorded pictures that gave the recorded results, of the fallback too; a delegate's
            count where the file says how far one may lie from a CPU.
        tolerance: How far a float may lie from the recorded one; 0 for integers.
        tolerance_codes: How many codes an integer may: 1 behind a softmax, else 0 on a CPU.
        fault: Why the fallback would look instead of the delegate; empty where it need not.
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
    tolerance_codes: int
    fault: str
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
    keys = signature.read_trusted(trust) if trust else ()
    signer = signature.verify(path, keys) if trust else None
    config = configs.load(config_path) if config_path else None
    settings = replace(config.model, path=path) if config else ModelConfig(path)
    if trust and settings.fallback:
        signature.verify(settings.fallback, keys)
    model = load_model(settings)  # it replays the recorded pictures
    if config is not None:
        _check(config, path, model)
    opened = _opened(model, settings)
    replayed = [one for one, on_cpu in opened if _has_recorded(one, on_cpu)]
    looking = opened[-1][0]
    return Proof(
        name=looking.name,
        sha256=file.read(path).sha256,
        precision=looking.precision,
        runtime=looking.interpreter.runtime,
        golden_count=sum(len(one.golden.inputs) for one in replayed if one.golden),
        tolerance=FLOAT_TOLERANCE if any(map(_gives_floats, replayed)) else 0.0,
        tolerance_codes=max(map(_codes_apart, replayed), default=0),
        fault=model.fault if isinstance(model, Standby) else "",
        signer=signer.key.name if signer else "",
        version=signer.version if signer else signature.version(path),
        web=_page(config) if config and config.web.port else None,
        frame=_look(config, model) if config and frame else None,
    )


def _opened(model: Model, settings: ModelConfig) -> list[tuple[TflitePredictor, bool]]:
    """Give what was opened, and whether a CPU computes it; what looks comes last."""
    if isinstance(model, Standby):
        return [(model.second, True), *([(model.first, False)] if model.first else [])]
    assert isinstance(model, TflitePredictor)
    return [(model, not settings.delegate)]


def _has_recorded(model: TflitePredictor, on_cpu: bool) -> bool:
    """Tell whether recorded pictures were replayed; a delegate may round in its own way.

    Raises:
        BundleError: If there are none for a CPU.
    """
    if model.golden is None and on_cpu and model.manifest is not None:
        raise BundleError(
            f"'{model.path.name}' holds no recorded pictures, so nobody can tell whether this machine "
            "computes what the maker's did.",
            fix="Convert the model again with 'edgecnn convert'.",
        )
    may_compare = on_cpu or (model.manifest is not None and model.manifest.golden_tolerance_codes > 0)
    return model.golden is not None and may_compare


def _gives_floats(model: TflitePredictor) -> bool:
    return any(spec.dtype.startswith("float") for spec in model.interpreter.outputs)


def _codes_apart(model: TflitePredictor) -> int:
    outputs = enumerate(model.interpreter.outputs)
    apart = (codes_apart(model, index) for index, spec in outputs if not spec.dtype.startswith("float"))
    return max(apart, default=0)


def _check(config: Config, path: Path, model: Model) -> None:
    """Refuse a configuration of another model, or one that names what is not there."""
    if config.model.path.resolve() != path.resolve():
        raise RecipeError(
            f"The configuration watches with '{config.model.path}', not with '{path}'.",
            fix=f'Write path = "{path.name}" in its [model].',
        )
    known = {label for head in model.heads for label in head.labels}
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
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.web.host, config.web.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.web.port}"
    return Page(url, config.web.token_env, str(config.web.token_file or ""))


def _look(config: Config, model: Model) -> Look:
    """Take one frame, and look at it.

    Raises:
        RuntimeFault: If none comes in time.
    """
    began_s = perf_counter()
    frame = _first_frame(config)
    taken_after_s = perf_counter() - began_s
    prediction = model.predict(frame)
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
