"""The address of a stream, with its password and without."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from edgecnn.watch.config import SourceConfig, secret

_STREAM: Final = re.compile(r"^(rtsps?|https?|rtmps?|udp|tcp|srt)://", re.IGNORECASE)


def is_stream(uri: str) -> bool:
    """Say whether a source is read over the network.

    Example:
        >>> is_stream("rtsp://cam/1"), is_stream("clips/fire.mp4")
        (True, False)
    """
    return bool(_STREAM.match(uri))


def with_password(config: SourceConfig) -> str:
    """Put user and password into the address of a stream.

    Example:
        >>> with_password(SourceConfig("rtsp://cam/1", username="me"))
        'rtsp://me@cam/1'
    """
    password = secret(config.password_env, config.password_file, "password of the stream")
    if not config.username:
        return config.uri
    user = quote(config.username, safe="") + (f":{quote(password, safe='')}" if password else "")
    parts = urlsplit(config.uri)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


def without_password(uri: str) -> str:
    """Give an address as it may be shown and written down.

    Example:
        >>> without_password("rtsp://me:secret@cam/1"), without_password("/dev/video0")
        ('rtsp://cam/1', '/dev/video0')
    """
    if not is_stream(uri):
        return uri
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
