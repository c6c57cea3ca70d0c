"""Sees a release through its frame, its switch and its probation, and takes it back if it fails.

It runs on the device as a service of its own, so that it needs no workstation, and goes on after a kill
or a reboot from what ``state.json`` says. Every phase can be done twice. Between any two lines either
``current`` names a slot that is whole, or there never was one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from .layout import (
    DEPLOYED,
    PROBATION,
    PROVING,
    REVERTING,
    SETTLED,
    STAGING,
    TAKEN_BACK,
    Layout,
    intact,
    read_json,
    remove,
)
from .refused import Refused
from .services import WATCH, Services, health
from .verify import verify

ATTEMPTS = 3
"""Starts of one phase: a release that takes the machine down each time must not do so for ever."""

STARTS_WITHIN_S = 120.0
"""A Pi Zero 2 W needs about 30 s from its start to the first frame."""

MAX_STARTS = 2
"""A camera may need a second try; what dies again and again has no use for the rest of the time."""

UNWELL_FOR_S = 10.0
"""Shorter than that, a page may be slow on a busy board."""

MAX_ALARMS = 3
"""Alarms that may start during the probation. One is a fire; more within a minute flicker."""

LOOK_EVERY_S = 0.5

State = dict[str, Any]


class Failed(Exception):
    """The release does not live up to what is asked of it; the reason is for a person."""


class Guard:
    """Walks from one phase to the next until the device has settled."""

    def __init__(self, layout: Layout, services: Services, user: str | None) -> None:
        self._layout, self._services, self._user = layout, services, user

    def run(self) -> None:
        """Go on from where the device stands.

        Raises:
            OSError: If the disk is full or the services do not obey; the watch has been started.
        """
        if self._layout.state()["phase"] == SETTLED:
            return
        try:
            while (state := self._layout.state())["phase"] != SETTLED:
                self._layout.set_state(self._next(state))
            self._layout.tidy()
        except Exception:  # whatever it was, nobody else would start the camera again
            # The service starts this anew; what was set aside lets it write then, if the disk is full.
            remove(self._layout.path("reserve"))
            if self._layout.current:
                self._services.start(WATCH, wait=False)
            raise

    def _next(self, state: State) -> State:
        attempt = state.get("attempt", 0) + 1
        # Written before anything is touched: on a full disk it stops here, and the camera goes on.
        self._layout.set_state({**state, "attempt": attempt})
        try:
            if attempt > ATTEMPTS and state["phase"] != REVERTING:
                raise Failed(f"the device stopped {ATTEMPTS} times during its {state['phase']}")
            return dict(PHASES)[state["phase"]](self, state)
        except (Failed, Refused) as failure:
            return {**state, "phase": REVERTING, "attempt": 0, "reason": str(failure)}

    def _prove(self, state: State) -> State:
        """Take one frame from the real camera, which the old release must let go of."""
        layout, trial = self._layout, state["trial"]
        staged = layout.release(STAGING)
        is_staged = staged is not None and staged["id"] == state["release"]
        folder = layout.slot(STAGING if is_staged else trial)
        release = self._intact(folder, state)
        self._services.stop(WATCH)
        verify(folder, release["model"], self._user, layout.trust(), frame=True)
        if is_staged:  # only now, so that a camera that is unplugged costs nobody the way back
            remove(layout.slot(trial))
            os.rename(folder, layout.slot(trial))
        return {**state, "phase": PROBATION, "attempt": 0}

    def _probe(self, state: State) -> State:
        """Switch, and watch the watch."""
        layout, trial = self._layout, state["trial"]
        release = self._intact(layout.slot(trial), state)
        self._switch(trial)
        self._watch(release, state["probation_s"])
        layout.note(_told(state, layout, state["kind"]))
        return _settled(state, trial, "")

    def _revert(self, state: State) -> State:
        """Go back to the release that was there before, or to none where there was none."""
        layout, slot = self._layout, state["slot"]
        self._switch(slot)
        layout.note({**_told(state, layout, TAKEN_BACK), "reason": state["reason"]})
        if state["kind"] == DEPLOYED and (layout.release(state["trial"]) or {}).get("id") == state["release"]:
            # Nobody should ever roll back to what has failed; whoever deploys it again finds it whole.
            remove(layout.slot(STAGING))
            os.rename(layout.slot(state["trial"]), layout.slot(STAGING))
        return _settled(state, slot, state["reason"])

    def _intact(self, folder: str, state: State) -> dict[str, Any]:
        release = read_json(os.path.join(folder, "release.json"))
        if release is None or release["id"] != state["release"]:
            raise Failed("what was proven is not there any more")
        intact(folder, release)
        return release

    def _switch(self, slot: str | None) -> None:
        """Let the watch run what is in a slot; done already, it disturbs nothing.

        Whoever is active while ``current`` names the slot was started after it was named: the old one is
        stopped before the name changes.
        """
        if self._layout.current == slot and (slot is None or self._services.is_active(WATCH)):
            return
        self._services.stop(WATCH)
        self._layout.point_to(slot)
        if slot is not None:
            self._services.start(WATCH, wait=False)

    def _watch(self, release: dict[str, Any], probation_s: float) -> None:
        """Look on until the watch has been well for long enough.

        Raises:
            Failed: If it does not come up, dies, is unwell, looks at nothing, or cries wolf.
        """
        web = release["web"]
        began_s = time.monotonic()
        processes: set[int] = set()
        while not (seen := health(web))["healthy"]:
            processes.add(self._services.main_pid(WATCH))
            if len(processes - {0}) > MAX_STARTS:
                raise Failed(f"it died {MAX_STARTS} times before it was watching")
            if time.monotonic() - began_s > STARTS_WITHIN_S:
                raise Failed(f"it was not watching after {STARTS_WITHIN_S:g} s: {seen.get('reason', '')}")
            time.sleep(LOOK_EVERY_S)
        first, process = seen, self._services.main_pid(WATCH)
        began_s = well_s = time.monotonic()
        while (now_s := time.monotonic()) - began_s < probation_s:
            time.sleep(LOOK_EVERY_S)
            seen = health(web)
            if self._services.main_pid(WATCH) != process:
                raise Failed("its process died, or its watchdog ended it")
            if seen["healthy"]:
                well_s = now_s
                _judge(first, seen, release)
            elif now_s - well_s > UNWELL_FOR_S:
                raise Failed(f"it was not well for {UNWELL_FOR_S:g} s: {seen.get('reason', '')}")
        if not seen["healthy"]:
            raise Failed(f"it was not well at the end of its probation: {seen.get('reason', '')}")
        if (
            "frames_count" in first
            and "frames_count" in seen
            and seen["frames_count"] <= first["frames_count"]
        ):
            raise Failed("it looked at no new frame")


PHASES: tuple[tuple[str, Callable[[Guard, State], State]], ...] = (
    (PROVING, Guard._prove),
    (PROBATION, Guard._probe),
    (REVERTING, Guard._revert),
)
"""What the device does alone; the fault tests break in at the beginning of each."""


def _judge(first: dict[str, Any], seen: dict[str, Any], release: dict[str, Any]) -> None:
    """Refuse a watch that is another one, or that cries wolf; silent where its page tells no more."""
    # Either of two may answer: the fallback does while the accelerator is not there.
    if "sha256" in seen and seen["sha256"] not in release["files"].values():
        raise Failed("another model answers than the one that was deployed")
    alarms = seen.get("incidents_count", 0) - first.get("incidents_count", 0)
    if alarms > MAX_ALARMS:
        raise Failed(f"it raised {alarms} alarms during its probation")


def _told(state: State, layout: Layout, action: str) -> dict[str, Any]:
    # What failed before its slot was its own lies in the staging slot still.
    found = [layout.release(slot) or {} for slot in (state["trial"], STAGING)]
    release = next((one for one in found if one.get("id") == state["release"]), {})
    keys = ("name", "version", "files", "env")
    return {
        "action": action,
        "deploy": state["deploy"],
        "who": state["who"],
        "release": state["release"],
        **{key: release.get(key) for key in keys},
    }


def _settled(state: State, slot: str | None, reason: str) -> State:
    """End; the reason why the trial failed stays, for whoever asks next."""
    return {
        "phase": SETTLED,
        "slot": slot,
        "deploy": state["deploy"],
        "release": state["release"],
        "reason": reason,
    }


def services(settings: dict[str, Any]) -> Services:
    """Make what the settings name."""
    return Services(settings["systemctl"], settings["units"])


def main(root: str) -> None:
    """Run as the service does: wait until the deploy has let go, and see it through."""
    layout = Layout(root)
    layout.lock(wait=True)
    settings = layout.settings()
    Guard(layout, services(settings), settings.get("user")).run()
