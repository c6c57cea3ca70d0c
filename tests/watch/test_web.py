"""The page: who may see it, what it answers, and what it shows in a real browser."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from stage import FIRE, StagedIncidents, StagedWatch

from edgecnn.core.alarm import AlarmPolicy
from edgecnn.core.frame import InputSpec
from edgecnn.core.zones import Window
from edgecnn.errors import RecipeError, RuntimeFault
from edgecnn.watch import web
from edgecnn.watch.config import WebConfig
from edgecnn.watch.incident import Incident
from edgecnn.watch.mute import Mute
from edgecnn.watch.pictures import boxes
from edgecnn.watch.status import Fault
from edgecnn.watch.web import WebServer, serve

TOKEN = "0123456789abcdef"
ORANGE = np.full((48, 64, 3), (230, 120, 20), np.uint8)


@dataclass
class Box:
    """A camera box with its page."""

    watch: StagedWatch
    incidents: StagedIncidents
    mute: Mute
    server: WebServer

    def ask(self, path: str, said: Any = None, **headers: str) -> tuple[int, bytes, Any]:
        body = None if said is None else json.dumps(said).encode()
        known = {"content-type": "application/json"} if body is not None else {}
        request = urllib.request.Request(
            self.server.url + path, body, known | {k.replace("_", "-"): v for k, v in headers.items()}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), error.headers


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def opened(host: str = "127.0.0.1", token: str = "") -> Iterator[Box]:
    watch, incidents, mute = StagedWatch(), StagedIncidents(), Mute()
    server = serve(WebConfig(host, free_port()), token, watch, watch.history, incidents, mute)
    try:
        yield Box(watch, incidents, mute, server)
    finally:
        server.close()


@pytest.fixture
def box() -> Iterator[Box]:
    with opened() as found:
        yield found


# Who may see it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "short"])
def test_a_page_that_others_reach_is_refused_without_a_token_that_cannot_be_guessed(token: str) -> None:
    with pytest.raises(RecipeError), opened("0.0.0.0", token):
        pass


@pytest.mark.parametrize(
    "path", ["api/state", "api/live", "api/picture.jpg", "metrics", "incidents/a/clip.mp4"]
)
def test_nothing_of_the_camera_is_told_without_the_token(path: str) -> None:
    with opened("0.0.0.0", TOKEN) as box:
        box.watch.play(ORANGE, 0.9, 0.0, 0)

        assert box.ask(path)[0] == 401
        assert box.ask(path, authorization="Bearer 0123456789abcdeX")[0] == 401
        assert box.ask(path, cookie=f"edgecnn={TOKEN}")[0] == 401


def test_connections_that_say_nothing_are_few_and_do_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SILENT_S", 1.0)
    with opened("0.0.0.0", TOKEN) as box, ExitStack() as stack:
        port = urllib.parse.urlsplit(box.server.url).port
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
        for one in silent:
            one.settimeout(10)
        time.sleep(0.3)
        open_now = len(box.server._server.server_state.connections)

        assert open_now <= web.MOST_CONNECTIONS
        assert [one.recv(1) for one in silent] == [b""] * 200
        monkeypatch.undo()  # who asks may be slower than this test's second
        assert box.ask("healthz")[0] in (200, 503)


def test_the_token_opens_the_page_to_scripts_and_its_cookie_to_browsers() -> None:
    with opened("0.0.0.0", TOKEN) as box:
        status, _, headers = box.ask("api/login", {"token": TOKEN})
        cookie = headers["set-cookie"]

        assert status == 204
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert box.ask("api/state", cookie=cookie.split(";")[0])[0] == 200
        assert box.ask("api/state", authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize("said", [{"token": "0123456789abcdeX"}, {"token": 1}, {}, [], "x" * 9000])
def test_a_wrong_token_opens_nothing_and_takes_its_time(said: Any) -> None:
    with opened("0.0.0.0", TOKEN) as box:
        began_s = time.monotonic()
        status, _, headers = box.ask("api/login", said)

        assert status == 401
        assert "set-cookie" not in headers
        assert time.monotonic() - began_s >= 0.5


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "192.168.1.7", "[::2]:80", ""])
def test_a_stranger_who_points_his_name_at_this_machine_sees_nothing(box: Box, host: str) -> None:
    assert box.ask("api/state", host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080"])
def test_this_machine_is_served_by_each_of_its_names(box: Box, host: str) -> None:
    assert box.ask("api/state", host=host)[0] == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_the_page_opens_at_the_address_that_it_tells(host: str) -> None:
    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("needs IPv6, which this machine has switched off")
    with opened(host) as box:
        assert box.ask("api/state")[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_form_on_a_strangers_page_cannot_mute_the_siren(box: Box, kind: str) -> None:
    assert box.ask("api/mute", {"seconds": 600}, content_type=kind)[0] == 415
    assert not box.mute


def test_the_page_loads_nothing_from_elsewhere_and_allows_no_script_but_its_own(box: Box) -> None:
    _, html, headers = box.ask("")
    policy = headers["content-security-policy"]

    assert re.findall(rb"""(?:src|href)=["'](?!data:)[^"']+""", html) == []
    assert b"@import" not in html
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_a_port_that_is_taken_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = WebConfig(port=taken.getsockname()[1])
        watch = StagedWatch()

        with pytest.raises(RuntimeFault, match=f"port {config.port}") as found:
            serve(config, "", watch, watch.history, StagedIncidents(), Mute())

    assert "[web]" in found.value.fix


def test_a_browser_that_waits_for_the_next_picture_does_not_hold_up_the_end(box: Box) -> None:
    box.watch.play(ORANGE, 0.1, 1.0, 7)
    waiting = http.client.HTTPConnection("127.0.0.1", int(box.server.url.rsplit(":")[-1].strip("/")))
    waiting.request("GET", "/api/live?after=1.000000-7")
    time.sleep(0.3)

    began_s = time.monotonic()
    box.server.close()
    waiting.close()

    assert time.monotonic() - began_s < 1.0


# What it answers ----------------------------------------------------------------------------------------


def live(box: Box, query: str = "") -> tuple[dict[str, Any], Any]:
    _, body, _ = box.ask(f"api/live{query}")
    length = int.from_bytes(body[:4], "little")
    picture = cv2.imdecode(np.frombuffer(body[4 + length :], np.uint8), cv2.IMREAD_COLOR)
    return json.loads(body[4 : 4 + length]), picture


def test_the_live_picture_comes_with_the_heatmap_and_the_boxes_of_that_very_frame(box: Box) -> None:
    box.watch.play(ORANGE, 0.9, 1.0, 7)

    said, picture = live(box)

    assert said["index"] == 7
    assert [(m["label"], m["rows"], m["columns"], m["boxes"]) for m in said["maps"]] == [
        ("fire", 6, 8, [[0.5, 0.5, 0.75, pytest.approx(5 / 6)]])
    ]
    assert picture.shape == (48, 64, 3)
    assert np.abs(picture[..., ::-1].astype(int) - ORANGE).max() < 8


def test_boxes_lie_in_the_picture_and_not_in_the_black_borders_that_the_model_saw(box: Box) -> None:
    box.watch.input = InputSpec(96, 128, resize="letterbox")
    box.watch.play(np.zeros((24, 64, 3), np.uint8), 0.9, 1.0, 7)  # half of the height is border

    (found,) = live(box)[0]["maps"][0]["boxes"]

    assert found == [0.5, 0.5, 0.75, 1.0]  # of the input: from 0.5 to 0.83; the picture ends at 0.75


def test_what_is_hot_in_a_black_border_gets_no_box() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 0.9

    assert boxes(heat, 0.5, Window(top=0.25, height=0.5)) == []


def test_a_browser_gets_the_next_picture_and_never_the_same_one_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_WAIT_S", 0.2)
    box.watch.play(ORANGE, 0.9, 1.0, 7)
    mark = live(box)[0]["mark"]

    assert box.ask(f"api/live?after={mark}")[0] == 204

    box.watch.play(ORANGE, 0.9, 1.1, 8)
    assert live(box, f"?after={mark}")[0]["index"] == 8


def test_a_large_picture_is_sent_no_wider_than_the_screen_that_asks(box: Box) -> None:
    box.watch.play(np.zeros((720, 1280, 3), np.uint8), 0.1, 1.0, 7)

    assert live(box, "?width=320")[1].shape == (180, 320, 3)
    assert live(box, "?width=nonsense")[1].shape == (360, 640, 3)


def test_two_fires_get_two_boxes_and_cells_that_touch_get_one() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = heat[2:, 2:] = 0.9

    assert sorted(boxes(heat, 0.5)) == [(0.0, 0.0, 0.25, 0.25), (0.5, 0.5, 1.0, 1.0)]
    assert boxes(heat, 0.95) == []


def test_trying_thresholds_gives_the_alarms_that_these_thresholds_would_have_raised(box: Box) -> None:
    for index in range(100):
        box.watch.play(ORANGE, 0.5 if 40 <= index < 60 else 0.1, index * 0.1, index)

    def alarms(**tried: float) -> Any:
        query = "&".join(f"{name}={value}" for name, value in tried.items())
        return json.loads(box.ask(f"api/preview?label=fire&{query}")[1])["alarms"]

    assert alarms() == []
    assert alarms(on_score=0.45) == [[pytest.approx(4.0), pytest.approx(6.0)]]
    assert alarms(on_score=0.45, minimum_s=5) == []


@pytest.mark.parametrize(
    "query", ["label=cat", "label=fire&on_score=nan", "label=fire&on_score=x", "on_score=0.1"]
)
def test_thresholds_that_are_none_are_refused_in_words(box: Box, query: str) -> None:
    box.watch.play(ORANGE, 0.9, 1.0, 7)

    status, body, _ = box.ask(f"api/preview?{query}")

    assert status == 422
    assert json.loads(body)["error"]


def test_the_chart_keeps_the_peak_of_a_fire_that_lasted_a_tenth_of_a_second(box: Box) -> None:
    for index in range(1200):
        box.watch.play(ORANGE, 0.95 if index == 700 else 0.05, index * 0.1, index)

    points = json.loads(box.ask("api/history?seconds=120")[1])["heads"]["fire"]["fire"]

    assert len(points) <= 401
    assert max(score for _, score in points) == pytest.approx(0.95, abs=1e-4)


def test_it_is_healthy_while_fresh_frames_are_looked_at_and_not_before(box: Box) -> None:
    before = box.ask("healthz")[0]
    box.watch.play(ORANGE, 0.1, 1.0, 0)
    after = box.ask("healthz")[0]
    box.watch.said = replace(box.watch.said, state="source lost")

    assert (before, after, box.ask("healthz")[0]) == (503, 200, 503)


def test_a_watch_that_says_it_watches_but_looked_at_nothing_for_long_is_not_healthy(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.watch.play(ORANGE, 0.1, 1.0, 0)
    monkeypatch.setattr(web, "STALE_S", 0.05)
    time.sleep(0.1)

    status, body, _ = box.ask("healthz")

    assert status == 503
    assert json.loads(body)["state"] == "watching"


@pytest.mark.parametrize(
    "said", [{"seconds": -1}, {"seconds": 1e9}, {"seconds": "5"}, {"seconds": True}, {}, []]
)
def test_a_siren_is_muted_for_a_time_and_not_for_good(box: Box, said: Any) -> None:
    assert box.ask("api/mute", said)[0] == 422
    assert not box.mute


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 48))
    for index in range(10):
        writer.write(np.full((48, 64, 3), 20 * index, np.uint8))
    writer.release()
    return path


def test_a_clip_can_be_saved_whole_and_in_parts_and_is_played_by_any_browser(box: Box, clip: Path) -> None:
    box.incidents.all = [Incident("a1", "fire", 1.0, 2.0, 0.9, clip=clip)]

    _, whole, _ = box.ask("incidents/a1/clip.mp4")
    status, part, _ = box.ask("incidents/a1/clip.mp4", range="bytes=0-9")
    _, played, headers = box.ask("incidents/a1/clip.mjpg")

    assert whole == clip.read_bytes()
    assert (status, part) == (206, whole[:10])
    assert headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
    assert played.count(b"\xff\xd8\xff") == 10


@pytest.mark.parametrize("path", ["snapshot.jpg", "clip.mp4", "clip.mjpg"])
def test_a_picture_that_the_quota_took_is_not_found_and_breaks_nothing(box: Box, path: str) -> None:
    gone = Path("/nowhere/a.jpg")
    box.incidents.all = [Incident("a1", "fire", 1.0, 2.0, 0.9, snapshot=gone, clip=gone)]

    assert box.ask(f"incidents/a1/{path}")[0] == 404
    assert box.ask(f"incidents/..%2f..%2fetc/{path}")[0] == 404


# What it shows in a browser -----------------------------------------------------------------------------

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")
    if not CHROMIUM.exists():
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def looked_at(
    chromium: Any, box: Box, size: tuple[int, int] = (1280, 900), dark: bool = False
) -> Iterator[Any]:
    context = chromium.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.asked, page.wrong = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.goto(box.server.url)
    try:
        yield page
    finally:
        context.close()


def says(page: Any, where: str, text: str) -> None:
    """Wait for words; the page's own policy forbids what evaluates code in it."""
    page.wait_for_selector(f'{where}:has-text("{text}")')


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    end_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.05)


@contextmanager
def playing(box: Box, score: float = 0.9) -> Iterator[None]:
    """Look at ten frames a second for as long as this lasts."""
    done = threading.Event()

    def play() -> None:
        index = 0
        while not done.wait(0.1):
            index += 1
            box.watch.play(ORANGE, score, 100 + index * 0.1, index)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


BURNING = Incident("b2", "fire", 1_790_000_000.0, None, 0.93)

pytestmark = pytest.mark.xdist_group("chromium")


def burn(box: Box) -> None:
    box.watch.said = replace(box.watch.said, alarms=("fire",), incidents_count=1)
    box.incidents.all = [BURNING]


def test_a_browser_shows_the_camera_s_picture_with_the_box_over_the_fire(box: Box, chromium: Any) -> None:
    with playing(box), looked_at(chromium, box) as page:
        page.wait_for_selector("#veil", state="hidden")
        pen = "document.getElementById('picture').getContext('2d')"
        pixel = f"([x, y]) => [...{pen}.getImageData(x, y, 1, 1).data]"
        away, edge = page.evaluate(pixel, [4, 40]), page.evaluate(pixel, [40, 24])

        assert np.abs(np.array(away[:3]) - (230, 120, 20)).max() < 12
        assert np.abs(np.array(edge[:3]) - (255, 90, 54)).max() < 30
        assert page.wrong == []


def test_an_alarm_is_seen_at_once_in_the_title_and_in_a_banner(box: Box, chromium: Any) -> None:
    with playing(box), looked_at(chromium, box) as page:
        page.wait_for_selector("#state.good")
        assert not page.is_visible("#alarm")

        burn(box)
        page.wait_for_selector("#alarm", timeout=2000)

        assert page.inner_text("#alarm-label") == "FIRE"
        assert page.title() == "● FIRE \N{EN DASH} yard"


def test_a_tap_acknowledges_the_alarm_and_another_mutes_the_siren(box: Box, chromium: Any) -> None:
    burn(box)
    with playing(box), looked_at(chromium, box, (390, 844)) as page:
        page.click("#acknowledge")
        says(page, "#acknowledge", "Acknowledged")
        page.click("#mute")
        says(page, "#mute", "Siren muted")

    assert box.incidents.all[0].acknowledged
    assert 590 < box.mute.remaining_s() <= 600


def test_the_page_fits_a_screen_of_any_width_and_a_finger_hits_its_buttons(box: Box, chromium: Any) -> None:
    burn(box)
    box.watch.said = replace(box.watch.said, faults=(Fault("mqtt", 1.79e9, "a.very.long.name" * 9),))
    with playing(box), looked_at(chromium, box) as page:
        page.click("#trial summary")
        page.wait_for_selector("#verdict:not(:empty)")
        for width in (320, 390, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})

            assert page.evaluate("document.documentElement.scrollWidth") == width
            if width < 400:  # WCAG 2.2, 2.5.8, asks for 24 px; a thumb asks for more
                heights = "[...document.querySelectorAll('button')].map(b => b.offsetHeight).filter(h => h)"
                assert min(page.evaluate(heights)) >= 40


def test_the_page_is_dark_in_the_dark_and_its_words_stand_out_from_it(box: Box, chromium: Any) -> None:
    with playing(box), looked_at(chromium, box, dark=True) as page:
        page.wait_for_selector("#state.good")
        colour = (
            "([id, name]) => getComputedStyle(document.querySelector(id))[name].match(/\\d+/g).map(Number)"
        )
        ground = page.evaluate(colour, ["section", "backgroundColor"])
        contrasts = [
            contrast(page.evaluate(colour, [where, "color"]), ground) for where in ("h2", ".note", "dt", "dd")
        ]

    assert luminance(ground) < 0.02
    assert min(contrasts) >= 4.5  # WCAG 2.2, 1.4.3


def luminance(rgb: list[int]) -> float:
    """WCAG 2.2, "relative luminance"."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(rgb[:3]) / 255]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(ink: list[int], ground: list[int]) -> float:
    high, low = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_page_says_since_when_no_picture_came(box: Box, chromium: Any) -> None:
    with looked_at(chromium, box) as page:
        with playing(box):
            page.wait_for_selector("#state.good")
        box.watch.said = replace(box.watch.said, state="source lost")
        page.wait_for_selector("#state.warn")

        assert page.inner_text("#state") == "source lost"
        says(page, "#veil", "No fresh picture since")


def test_the_page_says_so_when_the_box_itself_is_gone(box: Box, chromium: Any) -> None:
    with looked_at(chromium, box) as page:
        with playing(box):
            page.wait_for_selector("#state.good")
        box.server.close()

        says(page, "#state", "no connection")


def test_a_fault_is_told_with_its_way_out(box: Box, chromium: Any) -> None:
    box.watch.said = replace(box.watch.said, faults=(Fault("mqtt", 1.79e9, "No answer. Start the broker."),))
    with playing(box), looked_at(chromium, box) as page:
        page.wait_for_selector(".fault")

        assert "No answer. Start the broker." in page.inner_text(".fault")
        assert page.inner_text("#state") == "watching, with faults"


def test_sliding_a_threshold_says_how_many_alarms_it_would_have_raised(box: Box, chromium: Any) -> None:
    for index in range(300):
        box.watch.play(ORANGE, 0.5 if 100 <= index < 150 else 0.1, index * 0.1, index)
    with looked_at(chromium, box) as page:
        page.click("#trial summary")
        says(page, "#verdict", "no alarm")
        page.evaluate("on_score.value = 0.45; on_score.dispatchEvent(new Event('input'))")
        says(page, "#verdict", "1 alarm")

        assert "on_score = 0.45" in page.inner_text("#toml")


def test_a_clip_plays_in_the_page(box: Box, chromium: Any, clip: Path) -> None:
    box.incidents.all = [Incident("a1", "fire", 1.79e9, 1.79e9 + 9, 0.9, clip=clip)]
    with playing(box, 0.1), looked_at(chromium, box) as page:
        page.click("text=Play")
        page.wait_for_selector(".incident.playing img")
        wait_until(lambda: page.evaluate("document.querySelector('.incident img').naturalWidth") == 64)

        assert page.inner_text(".incident button") == "Stop"


def test_a_label_that_is_markup_is_shown_as_it_is_written(box: Box, chromium: Any) -> None:
    label = "<img src=x onerror=alert(1)>"
    box.watch.config = replace(box.watch.config, alarm=(AlarmPolicy(label), FIRE))
    box.incidents.all = [Incident("a1", label, 1.79e9, None, 0.9)]
    with playing(box), looked_at(chromium, box) as page:
        page.wait_for_selector(".incident b")

        assert page.inner_text(".incident b") == label
        assert page.query_selector("img[src=x]") is None


def test_a_browser_is_asked_for_the_token_once_and_remembers_it(chromium: Any) -> None:
    with opened("127.0.0.1", TOKEN) as box, playing(box), looked_at(chromium, box) as page:
        page.fill("#token", "wrong")
        page.click("#login button")
        says(page, "#login-error", "This is not the token.")
        page.fill("#token", TOKEN)
        page.click("#login button")
        page.wait_for_selector("#state.good")
        page.reload()
        page.wait_for_selector("#state.good")

        assert not page.is_visible("#login")


def test_the_browser_asks_nobody_but_the_box(box: Box, chromium: Any) -> None:
    with playing(box), looked_at(chromium, box) as page:
        page.wait_for_selector("#veil", state="hidden")
        page.wait_for_timeout(500)

        assert [url for url in page.asked if not url.startswith((box.server.url, "data:", "blob:"))] == []
