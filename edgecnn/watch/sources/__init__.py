"""Where frames come from: cameras, streams, clips and folders, each behind the same socket."""
