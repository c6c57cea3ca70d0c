"""The one file that crosses from workstation to device: a ``.tflite`` that explains itself."""
