"""What everyone outside is told of an event, in JSON."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from edgecnn.core.alarm import Event


def describe(event: Event, device: str) -> dict[str, Any]:
    """Put an event into words that a broker or a web server can pass on.

    Example:
        >>> event = Event("started", "fire", 5.0, 0.91, 50, "a1", at_utc_s=0.0, event_id="e1")
        >>> said = describe(event, "yard")
        >>> said["id"], said["device"], said["kind"], said["time"]
        ('e1', 'yard', 'started', '1970-01-01T00:00:00.000Z')
    """
    return {
        "id": event.event_id,
        "device": device,
        "incident_id": event.incident_id,
        "kind": event.kind,
        "label": event.label,
        "score": round(event.score, 4),
        "time": None if event.at_utc_s is None else iso(event.at_utc_s),
        "at_s": event.at_s,
        "frame_index": event.frame_index,
        "box": event.box,
        "detail": event.detail,
    }


def iso(utc_s: float) -> str:
    """Write a moment by RFC 3339, in UTC.

    Example:
        >>> iso(1.5)
        '1970-01-01T00:00:01.500Z'
    """
    moment = datetime.fromtimestamp(utc_s, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
