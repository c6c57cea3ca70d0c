"""The one door to TensorFlow and to the Keras that TFMOT understands."""

from __future__ import annotations

import os
import warnings
from typing import Any

from edgecnn.errors import MissingPackageError

# TFMOT prunes and quantizes tf_keras models only, and reads this when TensorFlow is first imported.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
# 2: errors only; the notes about oneDNN and missing GPUs are not for the user.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside TensorFlow are not ours to mend
        import tensorflow
        import tf_keras
except ImportError as error:
    raise MissingPackageError(
        f"This command makes or changes models and needs TensorFlow, which is not installed: {error}.",
        fix="Install the workstation side: pip install 'edgecnn[workstation]'.",
    ) from error

tf: Any = tensorflow
keras: Any = tf_keras
tf.get_logger().setLevel("ERROR")


def tfmot() -> Any:
    """Import the model optimization toolkit, which takes a second and is needed by few commands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_model_optimization
    return tensorflow_model_optimization
