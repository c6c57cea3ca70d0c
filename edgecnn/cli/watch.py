"""``watch``: from a camera to an alarm."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="With --source: the model file.")
@click.option(
    "--source",
    metavar="SRC",
    help="Instead of CONFIG: picamera, /dev/video0, 0, a clip, a folder, rtsp://..., http://..., "
    "or replay:ID of an incident or its clip.",
)
@click.option(
    "--label", "labels", multiple=True, help="What to watch; may be given twice. Default: fire and smoke."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 for no page.")
@click.option(
    "--fast", is_flag=True, help="Play a clip as fast as the model goes, without leaving a frame out."
)
def watch(
    config: Path | None,
    model: Path | None,
    source: str | None,
    labels: tuple[str, ...],
    port: int,
    fast: bool,
) -> None:
    """Watch a camera, and raise an alarm.

    CONFIG is a watch.toml; without one, --source does. Where no model is named, one that ships looks.

    \b
    Example:
        edgecnn watch --model fire.int8.tflite --source /dev/video0
    """
    if (config is None) == (source is None):
        raise click.UsageError("Give a CONFIG.toml, or --source.")
    if config is not None and (model or source or labels or fast):
        raise click.UsageError("What stands in CONFIG.toml is changed there, not by options.")
    from edgecnn.watch import box
    from edgecnn.watch import config as configs
    from edgecnn.watch.sinks.terminal import TerminalSink
    from edgecnn.zoo import shelf

    if config is not None:
        settings, loaded = configs.load(config), None
    else:
        assert source is not None
        path = model or shelf.for_watching()
        settings, loaded = box.quick(path, source, labels, port, realtime=not fast)
    in_time = box.run(settings, config, {"terminal": TerminalSink()}, click.echo, loaded)
    if not in_time:
        # A camera or broker that hangs must not hold up the end; what matters is on the disk.
        sys.stdout.flush()
        os._exit(0)
