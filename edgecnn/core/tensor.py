"""What the codes of a quantized tensor mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and meaning of one tensor at the border of a model.

    Attributes:
        shape: Dimensions, the batch of 1 first.
        dtype: numpy's name: ``uint8``, ``int8``, ``int16``, ``float32`` ...
        scale: Real units per code; 0 where the tensor is not quantized.
        zero_point: The code that means 0.0.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    @property
    def is_quantized(self) -> bool:
        """Whether codes stand for real numbers by a scale."""
        return self.scale != 0.0


def dequantize(codes: NDArray[Any], spec: TensorSpec) -> NDArray[np.float32]:
    """Turn codes into the real numbers that they stand for.

    Source:
        TensorFlow Lite 8-bit quantization specification: ``real = scale * (code - zero_point)``.

    Example:
        >>> dequantize(np.uint8([0, 128]), TensorSpec((1, 2), "uint8", 1 / 256, 0)).tolist()
        [0.0, 0.5]
    """
    if not spec.is_quantized:
        return codes.astype(np.float32)
    # int32 first: int8 minus a zero point of 127 does not fit int8.
    centred = codes.astype(np.int32) - spec.zero_point
    return np.float32(spec.scale) * centred.astype(np.float32)


def quantize(real: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Turn real numbers into the nearest codes, clipped to what the type holds.

    Example:
        >>> quantize(np.array([0.5, 9.0]), TensorSpec((1, 2), "uint8", 1 / 256, 0)).tolist()
        [128, 255]
    """
    if not spec.is_quantized:
        return real.astype(spec.dtype)
    limits = np.iinfo(spec.dtype)
    codes = np.round(real / spec.scale) + spec.zero_point
    return np.clip(codes, limits.min, limits.max).astype(spec.dtype)
