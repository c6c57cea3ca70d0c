"""The page on which one sees what the camera sees, and its metrics."""

from __future__ import annotations

import asyncio
import base64
import importlib.resources
import ipaddress
import json
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgecnn.core.alarm import AlarmPolicy
from edgecnn.core.frame import Frame, InputSpec
from edgecnn.core.prediction import Prediction
from edgecnn.core.zones import Window
from edgecnn.errors import RecipeError, RuntimeFault
from edgecnn.watch import metrics
from edgecnn.watch.config import Config, WebConfig
from edgecnn.watch.guard import COOKIE, Guard, cookie, refusal, refuse_open_door, same
from edgecnn.watch.history import History, preview, thin
from edgecnn.watch.incident import Incident
from edgecnn.watch.mute import Mute
from edgecnn.watch.pictures import WIDTH_PX, boxes, encode, parts
from edgecnn.watch.status import Status

STALE_S: Final = 10.0
"""After so long without a freshly inferred frame the watch is not healthy, whatever its state says."""

MOST_CONNECTIONS: Final = 64
"""A browser opens six; systemd leaves a service 1,024 descriptors."""

SILENT_S: Final = 10.0
"""A connection that brings no whole request within this time is closed."""

_WRONG_TOKEN_S: Final = 0.5
_WAIT_S: Final = 5.0
_POLL_S: Final = 0.02
_DAY_S: Final = 24 * 3600
_YEAR_S: Final = 365 * _DAY_S
_BODY_BYTES: Final = 4096


class Watched(Protocol):
    """What the page needs to know of the watch; ``watch.loop.Watch`` knows it."""

    @property
    def config(self) -> Config:
        """The configuration in force."""

    @property
    def input(self) -> InputSpec:
        """What the resize makes of a picture."""

    def status(self) -> Status:
        """Give a snapshot of how it is."""

    def latest(self) -> tuple[Frame, Prediction] | None:
        """Give the last frame that was looked at."""


class Incidents(Protocol):
    """What the page needs to know of the journal."""

    def incidents(self, count: int) -> Sequence[Incident]:
        """Give the latest ones, newest first."""

    def incident(self, incident_id: str) -> Incident | None:
        """Find one."""

    def acknowledge(self, incident_id: str) -> bool:
        """Note that a person has taken note; False where there is no such incident."""


class Page:
    """Answers the browser, Prometheus and whoever asks whether the watch is well."""

    def __init__(
        self, watched: Watched, history: History, incidents: Incidents, mute: Mute, token: str = ""
    ) -> None:
        self._watched, self._history, self._incidents, self._mute = watched, history, incidents, mute
        self._token = token
        self._registry = metrics.registry(watched.status)
        self._html = _page()
        self._encoded: tuple[float, int, bytes] | None = None
        self._encoding = threading.Lock()

    def app(self) -> ASGIApp:
        """Give the application that a server runs."""
        routes = [
            Route("/", self._root),
            Route("/healthz", self._healthz),
            Route("/metrics", self._metrics),
            Route("/api/login", self._login, methods=["POST"]),
            Route("/api/state", self._state),
            Route("/api/live", self._live),
            Route("/api/picture.jpg", self._picture),
            Route("/api/history", self._scores),
            Route("/api/preview", self._preview),
            Route("/api/mute", self._set_mute, methods=["POST"]),
            Route("/api/incidents/{id}/acknowledge", self._acknowledge, methods=["POST"]),
            Route("/incidents/{id}/snapshot.jpg", self._snapshot),
            Route("/incidents/{id}/clip.mp4", self._clip),
            Route("/incidents/{id}/clip.mjpg", self._play),
        ]
        return Guard(Starlette(routes=routes), self._token, self._html)

    def _root(self, _: Request) -> Response:
        return Response(self._html, media_type="text/html")

    def _healthz(self, _: Request) -> Response:
        state, age_s = self._watched.status().state, self._history.age_s()
        is_well = state == "watching" and age_s is not None and age_s < STALE_S
        said = {"state": state, "healthy": is_well, "last_frame_age_s": _rounded(age_s)}
        return JSONResponse(said, 200 if is_well else 503)

    def _metrics(self, _: Request) -> Response:
        return Response(metrics.render(self._registry), headers={"content-type": metrics.CONTENT_TYPE})

    async def _login(self, request: Request) -> Response:
        given = (await _body(request)).get("token")
        if not self._token or not isinstance(given, str) or not same(given, self._token):
            await asyncio.sleep(_WRONG_TOKEN_S)
            return refusal(401, "This is not the token.")
        response = Response(status_code=204)
        response.set_cookie(COOKIE, cookie(self._token), _YEAR_S, httponly=True, samesite="strict")
        return response

    def _state(self, _: Request) -> Response:
        said = {
            "device": self._watched.config.device,
            "status": msgspec.to_builtins(self._watched.status()),
            "last_frame_age_s": _rounded(self._history.age_s()),
            "policies": [msgspec.to_builtins(policy) for policy in self._watched.config.alarm],
            "muted_s": round(self._mute.remaining_s(), 1),
            "incidents": [_told(incident) for incident in self._incidents.incidents(50)],
        }
        return JSONResponse(said)

    async def _live(self, request: Request) -> Response:
        """Send the next picture with its scores: the length of a JSON text, that text, the JPEG.

        One answer holds both, so that a heatmap is never drawn over another picture than its own; and
        a browser asks again only when it has drawn, so that a slow one is never behind.
        """
        width_px = _number(request, "width", WIDTH_PX)
        found = await self._newer_than(request.query_params.get("after", ""))
        if found is None:
            return Response(status_code=204)
        frame, prediction = found
        jpeg = await run_in_threadpool(self._jpeg, frame, width_px)
        said = json.dumps(_described(frame, prediction, self._watched)).encode()
        body = len(said).to_bytes(4, "little") + said + jpeg
        return Response(body, media_type="application/octet-stream")

    async def _newer_than(self, mark: str) -> tuple[Frame, Prediction] | None:
        for _ in range(round(_WAIT_S / _POLL_S)):
            found = self._watched.latest()
            if found is not None and _mark(found[0]) != mark:
                return found
            await asyncio.sleep(_POLL_S)
        return None

    def _picture(self, request: Request) -> Response:
        found = self._watched.latest()
        if found is None:
            return refusal(503, "There is no picture yet.")
        return Response(self._jpeg(found[0], _number(request, "width", WIDTH_PX)), media_type="image/jpeg")

    def _jpeg(self, frame: Frame, width_px: int) -> bytes:
        """Encode a frame once, however many look."""
        with self._encoding:
            known = self._encoded
            if known is None or known[:2] != (frame.captured_at_s, width_px):
                known = (frame.captured_at_s, width_px, encode(frame.pixels_rgb, width_px))
                self._encoded = known
            return known[2]

    def _scores(self, request: Request) -> Response:
        series = self._history.series(_number(request, "seconds", 120))
        every_s = _number(request, "seconds", 120) / 400
        labels = self._watched.status().scores
        lines = {
            head: {
                label: thin(series.at_s, rows[:, column], every_s)
                for column, label in enumerate(labels.get(head, ()))
                if column < rows.shape[1]
            }
            for head, rows in series.scores.items()
        }
        now_s = float(series.at_s[-1]) if len(series.at_s) else None
        return JSONResponse({"now_s": now_s, "heads": lines})

    def _preview(self, request: Request) -> Response:
        try:
            policy = _policy(request.query_params, self._watched.config.alarm)
        except RecipeError as error:
            return refusal(422, f"{error.message} {error.fix}")
        series = self._history.series()
        scores = series.followed.get(policy.label, np.zeros(len(series.at_s), np.float32))
        found = preview(series.at_s.tolist(), scores.tolist(), policy)
        span_s = float(series.at_s[-1] - series.at_s[0]) if len(series.at_s) else 0.0
        line = thin(found.at_s, found.smoothed, 0.3)
        return JSONResponse({"alarms": found.alarms, "line": line, "seconds": round(span_s, 1)})

    async def _set_mute(self, request: Request) -> Response:
        seconds = (await _body(request)).get("seconds")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds <= _DAY_S:
            return refusal(422, "A siren is muted for 0 to 86400 seconds.")
        self._mute.mute(float(seconds))
        return JSONResponse({"muted_s": round(self._mute.remaining_s(), 1)})

    def _acknowledge(self, request: Request) -> Response:
        if not self._incidents.acknowledge(request.path_params["id"]):
            return refusal(404, "There is no such incident.")
        return Response(status_code=204)

    def _snapshot(self, request: Request) -> Response:
        incident = self._found(request)
        return _file(incident.snapshot if incident else None, "image/jpeg")

    def _clip(self, request: Request) -> Response:
        incident = self._found(request)
        return _file(incident.clip if incident else None, "video/mp4")

    def _play(self, request: Request) -> Response:
        """Play a clip as a row of JPEGs, which every browser shows, whatever codec the clip has."""
        incident = self._found(request)
        if incident is None or incident.clip is None or not incident.clip.is_file():
            return refusal(404, "There is no such clip.")
        return StreamingResponse(parts(incident.clip), media_type="multipart/x-mixed-replace; boundary=frame")

    def _found(self, request: Request) -> Incident | None:
        return self._incidents.incident(request.path_params["id"])


class _Door(H11Protocol):
    """One connection; who opens many, or says nothing, takes no descriptor that a camera needs."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self.loop.call_later(SILENT_S, self._hang_up_on_the_silent)

    def _hang_up_on_the_silent(self) -> None:
        if self.cycle is None:  # no whole request yet; after one, the server's own keep-alive counts
            self.transport.close()


class WebServer:
    """Serves the page on a thread of its own.

    Attributes:
        url: Where it can be opened on this machine.
    """

    def __init__(self, page: Page, config: WebConfig) -> None:
        self._listener = _listen(config.host, config.port)
        host, port = self._listener.getsockname()[:2]
        shown = "localhost" if ipaddress.ip_address(host).is_unspecified else host
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
        settings = uvicorn.Config(
            page.app(), log_level="critical", access_log=False, lifespan="off", ws="none", loop="asyncio",
            http=_Door, server_header=False, timeout_graceful_shutdown=0,
        )  # fmt: skip
        self._server = uvicorn.Server(settings)
        # A daemon: a browser that does not let go must not hold up the end of the service.
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="web", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Hang up; may be called twice."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(1.0)
        self._listener.close()


def serve(
    config: WebConfig, token: str, watched: Watched, history: History, incidents: Incidents, mute: Mute
) -> WebServer:
    """Start the page.

    Args:
        config: Where it listens.
        token: What opens it; may be empty for this machine only.
        watched: The watch.
        history: Its scores.
        incidents: Its journal.
        mute: What silences the siren.

    Raises:
        RecipeError: If others could open the page without a token, or with one that can be guessed.
        RuntimeFault: If it cannot listen there.
    """
    refuse_open_door(config.host, token)
    return WebServer(Page(watched, history, incidents, mute, token), config)


def _described(frame: Frame, prediction: Prediction, watched: Watched) -> dict[str, Any]:
    """Say of a picture what is drawn over it."""
    status = watched.status()
    policies = {policy.label: policy for policy in watched.config.alarm}
    height, width = frame.pixels_rgb.shape[:2]
    window = Window.of(watched.input, height, width)
    maps = []
    for head, scores in prediction.heads.items():
        if scores.ndim != 3:
            continue
        for column, label in enumerate(status.scores.get(head, ())):
            if label not in policies or column >= scores.shape[2]:
                continue
            heat = scores[..., column]
            cells = base64.b64encode(np.rint(heat * 255).astype(np.uint8).tobytes()).decode()
            maps.append(
                {
                    "label": label,
                    "rows": heat.shape[0],
                    "columns": heat.shape[1],
                    "cells": cells,
                    "boxes": boxes(heat, policies[label].on_score, window),
                }
            )
    return {
        "mark": _mark(frame),
        "width": width,
        "height": height,
        "index": frame.index,
        "window": asdict(window),
        "maps": maps,
    }


def _mark(frame: Frame) -> str:
    """Tell frames apart, those of a source that began anew too."""
    return f"{frame.captured_at_s:.6f}-{frame.index}"


def _told(incident: Incident) -> dict[str, Any]:
    said = asdict(incident)
    said["snapshot"], said["clip"] = incident.snapshot is not None, incident.clip is not None
    return said


def _policy(query: Mapping[str, str], policies: Sequence[AlarmPolicy]) -> AlarmPolicy:
    """Read a policy that is tried; what is not given is as in force."""
    label = query.get("label", policies[0].label)
    known = next((policy for policy in policies if policy.label == label), None)
    if known is None:
        raise RecipeError(f"No alarm watches '{label}'.", fix=f"Try '{policies[0].label}'.")
    names = ("on_score", "off_score", "half_life_s", "minimum_s", "cooldown_s")
    try:
        given: dict[str, Any] = {name: float(query[name]) for name in names if name in query}
    except ValueError as error:
        raise RecipeError("A threshold is a number.", fix="Write 0.7.") from error
    if not all(np.isfinite(value) for value in given.values()):
        raise RecipeError("A threshold is a finite number.", fix="Write 0.7.")
    return replace(known, hours=(), **given)


def _file(path: Path | None, media_type: str) -> Response:
    if path is None or not path.is_file():
        return refusal(404, "There is no such file.")
    return FileResponse(path, media_type=media_type)


async def _body(request: Request) -> Mapping[str, Any]:
    """Read a small JSON object; anything else is an empty one."""
    text = b""
    async for part in request.stream():
        text += part
        if len(text) > _BODY_BYTES:
            return {}
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _number(request: Request, name: str, otherwise: int) -> int:
    """Read a whole number from 16 to 3840 out of the query."""
    text = request.query_params.get(name, "")
    return min(max(int(text), 16), 3840) if re.fullmatch(r"\d{1,6}", text) else otherwise


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def _listen(host: str, port: int) -> socket.socket:
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=kind)
    except OSError as error:
        raise RuntimeFault(
            f"The page cannot be served on {host}, port {port}: {error}.",
            fix="Set another port or host in [web] of watch.toml; port = 0 switches the page off.",
        ) from error


def _page() -> bytes:
    return (importlib.resources.files("edgecnn.watch") / "page.html").read_bytes()
