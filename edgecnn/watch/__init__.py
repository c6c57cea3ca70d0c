"""From a camera to an alarm: sources, loop, sinks, web page, metrics and service."""
