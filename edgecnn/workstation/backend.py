"""The one door to TensorFlow and to the Keras that TFMOT understands."""

from __future__ import annotations

import os
from typing import Any

from edgecnn.errors import MissingPackageError
from edgecnn.runtime.quiet import quietly

# TFMOT prunes and quantizes tf_keras models only, and reads this when TensorFlow is first imported.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
# 2: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

try:
    with quietly():
        import tensorflow
        import tf_keras

        tensorflow.constant(0)  # the first operation looks for devices, and talks about it
except ImportError as error:
    raise MissingPackageError(
        f"This command makes or changes models and needs TensorFlow, which is not installed: {error}.",
        fix="Install the workstation side: pip install 'edgecnn[workstation]'.",
    ) from error

tf: Any = tensorflow
keras: Any = tf_keras
tf.get_logger().setLevel("ERROR")
# Dropout then keeps its state in a variable that can be set at the start of an epoch, so that a run
# that was killed goes on with the numbers of an unbroken one.
keras.backend.experimental.enable_tf_random_generator()


def tfmot() -> Any:
    """Import the model optimization toolkit, which takes a second and is needed by few commands."""
    with quietly():
        import tensorflow_model_optimization
    return tensorflow_model_optimization


def quantizer() -> Any:
    """Give the step of the converter that makes an int8 file of a calibrated float flatbuffer."""
    from tensorflow.lite.python.convert import mlir_quantize

    return mlir_quantize
