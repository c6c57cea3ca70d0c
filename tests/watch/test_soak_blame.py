"""A late frame is blamed on others only for the time in which they surely held a core that it waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from soak import Reading, possible_ms, sure_ms

ZERO = Reading(0.0, 0.0, {"watch/1": (0.0, 0.0), "web/2": (0.0, 0.0)})


def test_a_wait_in_which_the_box_itself_hardly_ran_is_due_to_others() -> None:
    now = Reading(0.1, 40.0, {"watch/1": (35.0, 60.0), "web/2": (5.0, 0.0)})

    assert sure_ms(0.0, ZERO, ZERO, now) == pytest.approx(55)


def test_a_wait_behind_another_thread_of_the_box_is_not() -> None:
    now = Reading(0.1, 100.0, {"watch/1": (40.0, 60.0), "web/2": (60.0, 0.0)})

    assert sure_ms(0.0, ZERO, ZERO, now) == 0


def test_a_wait_that_may_lie_before_the_frame_was_taken_is_not() -> None:
    now = Reading(0.1, 40.0, {"watch/1": (40.0, 60.0), "web/2": (0.0, 0.0)})

    assert sure_ms(0.06, ZERO, now, now) == 0


def test_a_wait_of_a_thread_that_may_have_held_the_lock_is_possibly_due_to_others() -> None:
    now = Reading(0.1, 40.0, {"watch/1": (40.0, 10.0), "web/2": (0.0, 50.0), "worker/3": (0.0, 5.0)})

    assert (sure_ms(0.0, ZERO, ZERO, now), possible_ms(ZERO, now)) == (10, 65)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not count waits")
def test_the_kernel_tells_a_core_that_others_hold_from_one_that_is_free() -> None:
    program = textwrap.dedent("""
        import os, subprocess, sys, threading, time
        import soak
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

        def held_up_ms():
            readings = []
            def work():
                schedule = soak.Schedule()
                readings.append(schedule.read())
                until_s = time.thread_time() + 0.1
                while time.thread_time() < until_s:
                    pass
                readings.append(schedule.read())
            thread = threading.Thread(target=work, name="watch")
            thread.start(); thread.join()
            start, end = readings
            return soak.sure_ms(start.at_s, start, start, end), 1e3 * (end.at_s - start.at_s) - 100

        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        time.sleep(0.3)
        sure, extra = held_up_ms()
        other.kill()
        print(sure / extra)
    """)
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": tests}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )

    # All that the work took beyond its 100 ms was a wait for the core, and the other had it.
    assert float(answer.stdout) == pytest.approx(1, abs=0.2)
