"""The quantization ladder: one step after the other until an int8 file is accurate enough."""
