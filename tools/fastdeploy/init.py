"""The runtime of FastDeploy 1.x, as tools/build_fastdeploy.sh built it: no vision, no text, no models."""

from .c_lib_wrap import (
    Backend,
    Device,
    FDDataType,
    FDTensor,
    ModelFormat,
    TensorInfo,
    is_built_with_gpu,
    is_built_with_ort,
)
from .runtime import Runtime, RuntimeOption

__all__ = [
    "Backend",
    "Device",
    "FDDataType",
    "FDTensor",
    "ModelFormat",
    "Runtime",
    "RuntimeOption",
    "TensorInfo",
    "is_built_with_gpu",
    "is_built_with_ort",
]
