"""What a run's figures depend on beside its recipe, seed and data: libraries, processor, threads, switches of torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from segshift.run_folder import read_info

LIBRARIES = (
    "segshift", "torch", "torchvision", "timm", "lightning-fabric", "kornia", "numpy", "pillow",
    "opencv-python-headless", "safetensors",
)  # fmt: skip

VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_DYNAMIC", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NCCL_ALGO", "NCCL_PROTO", "PYTHONHASHSEED",
)  # fmt: skip
"""Environment variables that decide which kernel computes, or in which order. No other is looked at."""

_NAMES = {
    "python": "Python",
    "system": "the operating system",
    "libc": "the C library",
    "machine": "the machine's architecture",
    "processor": "the processor",
    "cores": "the number of processor cores",
    "kernels": "the instruction set that torch uses",
    "mkldnn": "oneDNN",
    "threads": "torch's number of threads",
    "between_operations": "torch's number of threads between operations",
    "device": "the device",
    "gpu": "the GPU",
    "gpu_capability": "the GPU's compute capability",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "deterministic": "torch's switch for deterministic algorithms",
    "cudnn_deterministic": "cuDNN's switch for deterministic algorithms",
    "cudnn_benchmark": "cuDNN's choice of algorithms by measuring",
    "matmul_precision": "the precision of float32 matrix products",
    "cudnn_tf32": "TF32 in convolutions",
}


def environment(device: str) -> dict[str, Any]:
    """The circumstances of this process, as JSON: no path, no name of a host or user.

    `device`: "cpu" or "cuda", what the run computes on.
    """
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "system": platform.system(),
        "libc": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "threads": torch.get_num_threads(),
        "between_operations": torch.get_num_interop_threads(),
        "device": device,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    if device == "cuda":
        found |= _gpu()
    return found


def _gpu() -> dict[str, Any]:
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }


def _processor() -> str:
    """The processor's name. Linux keeps it in a file of its own; elsewhere Python may know it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed between two environments, as sentences; what one of them does not know is passed over."""
    return [
        f"{name} was {_said(before)}, is {_said(after)}" for name, before, after in _pairs(then, now) if before != after
    ]


def changes_since(model: Path, device: str) -> list[str]:
    """`differences` between now and when a model was trained; none where that is not known.

    `model`: the folder of a run, or its `model/`. RunError where its run.json is damaged.
    """
    run = next((folder for folder in (model, model.parent) if (folder / "run.json").is_file()), None)
    return [] if run is None else differences(read_info(run).get("environment", {}), environment(device))


def _pairs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name for people, then, now) of what both know."""
    for key in (key for key in now if key in then):
        before, after = then[key], now[key]
        if key == "libraries":
            yield from ((name, before[name], after[name]) for name in after if name in before)
        elif key == "variables":
            # A variable that is not set is known to be so, on both sides.
            yield from ((name, before.get(name), after.get(name)) for name in VARIABLES)
        else:
            yield _NAMES[key], before, after


def _said(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
