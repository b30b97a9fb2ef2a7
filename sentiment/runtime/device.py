"""What the hardware is and can do: device, threads, memory, precision."""

import ctypes
import math
import os
import platform
from contextlib import suppress
from pathlib import Path

import torch
from joblib import cpu_count

from sentiment.errors import UserError

GROUP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
QUOTAS = {False: ["cpu.max"], True: ["cpu.cfs_quota_us", "cpu.cfs_period_us"]}  # versions 2 and 1
BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def pick_device():
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def set_up(device):
    """Use this process's share of the cores, or one thread with a GPU. Keep freed memory."""
    if platform.libc_ver()[0] == "glibc":  # by default, 20% of a step fills new memory with zeros
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block comes from mmap
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: free memory stays
    # Launchers set OMP_NUM_THREADS=1 unless the user chose.
    launched = os.environ.keys() & {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}
    chosen = os.environ.get("OMP_NUM_THREADS")
    if chosen is None or (launched and chosen == "1"):
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        threads = min(cpu_count(), quota()) // processes
        # With a GPU, more threads wait for each other, and for the tokenizer's.
        torch.set_num_threads(max(1, threads) if device.type == "cpu" else 1)


def quota():
    """CPUs that Linux control groups allow, rounded up, or inf."""
    limits = [math.inf]
    for line in GROUP.read_text().splitlines() if GROUP.exists() else []:
        _, controllers, path = line.split(":", 2)
        group = GROUPS / controllers / path.strip("/")
        for folder in (group, *group.parents):  # a container has the topmost alone
            with suppress(OSError, ValueError):  # no such file; "max"
                files = [folder / name for name in QUOTAS[bool(controllers)]]
                amount, period = map(int, " ".join(map(Path.read_text, files)).split())
                limits += [math.ceil(amount / period)] * (amount > 0)
    return min(limits)


def place(model, device):
    """Move a model to its device. A GPU computes deterministically."""
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read at the first matrix product
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid
    return model.to(device)


def precisions():
    """The device's native precisions, the best last: "no" (fp32), "fp16", "bf16"."""
    kind = pick_device().type
    if kind == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ["no", "fp16", "bf16"] if bf16 else ["no", "fp16"]
    bf16 = kind == "cpu" and any(map(torch.cpu.get_capabilities().get, BF16))
    return ["no", "bf16"] if bf16 else ["no"]


def pick_precision(requested="auto"):
    """One of `precisions`. "auto": the launcher's unless "no", else the best. UserError."""
    possible = precisions()
    if requested == "auto":
        told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # also if it was told nothing
        requested = possible[-1] if told == "no" else told
    if requested not in possible:
        supported = f"{describe()} supports {', '.join(possible)} (no: fp32)"
        way = "drop it, here or in the launcher, for the best"
        raise UserError(f"--mixed_precision {requested}: {supported}; {way}")
    return requested


def describe():
    """For example "AMD EPYC" or "NVIDIA H100"."""
    kind = pick_device().type
    if kind == "cuda":
        return torch.cuda.get_device_name()
    name = torch.cpu.get_capabilities().get("cpu_name") if kind == "cpu" else None
    return name or f"{kind} ({platform.processor() or platform.machine()})"
