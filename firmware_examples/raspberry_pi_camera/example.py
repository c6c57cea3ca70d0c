"""Ten lines against the public API: python example.py fire.tflite picamera."""

import sys
import threading
from pathlib import Path

from edgecnn.core.alarm import AlarmPolicy, Event
from edgecnn.core.frame import Frame
from edgecnn.core.prediction import Prediction
from edgecnn.watch.config import Config, ModelConfig, SourceConfig
from edgecnn.watch.loop import Watch, load_model
from edgecnn.watch.sources.open import open_source


class Doorbell:
    """A Sink: whatever should happen when there is fire. Write your own into on_event."""

    def on_prediction(self, frame: Frame, prediction: Prediction) -> None:
        """Every frame that was looked at, with its scores."""

    def on_event(self, event: Event) -> None:
        """An alarm that starts, lasts or ends, or a camera that cannot be trusted."""
        print(event.kind, event.label, f"{event.score:.2f}", flush=True)

    def close(self) -> None:
        """Let go of what you opened."""


def main(model: str, source: str) -> None:
    """Watch until Ctrl-C, or until a clip ends."""
    config = Config("porch", ModelConfig(Path(model)), SourceConfig(source), (AlarmPolicy("fire"),))
    predictor = load_model(config.model)  # a Predictor: predict(frame) gives the scores
    camera = open_source(config.source)  # a Source: iterate over it for frames
    Watch(config, predictor, camera, [Doorbell()]).run(threading.Event())


if __name__ == "__main__":
    main(*sys.argv[1:3])
