"""Real servers of live pictures on free ports: MJPEG over HTTP, and RTSP by GStreamer."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

SYSTEM_PYTHON = "/usr/bin/python3"
_NEEDS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
_RTSP = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1"); server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch("( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240"
    ",framerate=15/1 ! x264enc tune=zerolatency key-int-max=15 ! rtph264pay name=pay0 pt=96 )")
factory.set_shared(True)
server.get_mount_points().add_factory("/yard", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def why_no_rtsp() -> str:
    """Say what is missing; empty if nothing is."""
    if shutil.which(SYSTEM_PYTHON) is None:
        return f"needs {SYSTEM_PYTHON} with GStreamer's RTSP server"
    tried = subprocess.run([SYSTEM_PYTHON, "-c", _NEEDS], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else "needs apt's gir1.2-gst-rtsp-server-1.0 and python3-gi"


@contextmanager
def rtsp_server(port: int) -> Iterator[str]:
    """Serve a bouncing ball; leaving kills the server, as a power cut would."""
    child = subprocess.Popen([SYSTEM_PYTHON, "-c", _RTSP, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield f"rtsp://127.0.0.1:{port}/yard"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


class MjpegServer:
    """A network camera with noise in its picture; it can stall without hanging up."""

    def __init__(self, port: int = 0, frames_per_second: float = 20.0, user: str = "") -> None:
        self.stalled = threading.Event()
        self.stopped = threading.Event()
        self.opened_count = 0
        self.colour_rgb = (200, 40, 30)
        self.user = user
        self._period_s = 1 / frames_per_second
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                outer.serve(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that hangs up is what happens here

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/video.mjpg"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        if self.user and handler.headers.get("Authorization") != f"Basic {self.user}":
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", 'Basic realm="camera"')
            handler.end_headers()
            return
        self.opened_count += 1
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        rng = np.random.default_rng(1)
        while not self.stopped.is_set():
            if not self.stalled.is_set():
                noise = rng.integers(-20, 21, (120, 160, 3))
                pixels = np.clip(np.array(self.colour_rgb) + noise, 0, 255).astype(np.uint8)
                cv2.rectangle(pixels, (20, 20), (70, 90), (255, 255, 255), -1)
                cv2.rectangle(pixels, (90, 30), (140, 100), (0, 0, 0), -1)
                jpeg = cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                handler.wfile.write(head.encode() + jpeg + b"\r\n")
            time.sleep(self._period_s)

    def close(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
