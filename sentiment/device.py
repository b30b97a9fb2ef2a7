"""What the hardware is and can do: device, threads, precision."""

import ctypes
import os
import platform
import sys

import torch
from accelerate.utils.memory import should_reduce_batch_size

from sentiment.cli import RunError, UserError, first_line


def pick_device():
    """The accelerator that is there (CUDA, ROCm, Apple's MPS, ...), else the CPU."""
    # A CUDA build of torch names cuda as its accelerator on a machine without a GPU too: ask whether one is there.
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def use_all_cores():
    """Give torch this process's share of the cores that the system lets it use; the number of threads is returned.

    `accelerate launch` and torchrun leave OMP_NUM_THREADS=1 behind when nobody chose a number. One therefore counts
    as a choice only without a launcher; any other number always does.
    """
    launched = any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"))
    chosen = os.environ.get("OMP_NUM_THREADS")
    if chosen is None or (chosen == "1" and launched):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    return torch.get_num_threads()


def keep_freed_memory():
    """Tell glibc to keep the memory of freed tensors for the next ones rather than hand it back to the system.

    By default blocks of some megabytes come from mmap, and the system fills each with zeros again: 20% of an update.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):  # not in musl
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block comes from mmap
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: what is free at the heap's end stays


def precisions():
    """Precisions that the device computes natively, the one to prefer last: "no" (fp32), "fp16", "bf16"."""
    device, possible = pick_device(), ["no"]
    if device.type == "cuda":
        possible += ["fp16"]
        if torch.cuda.is_bf16_supported(including_emulation=False):
            possible += ["bf16"]
    elif device.type == "cpu":
        capabilities = cpu_capabilities()
        if any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")):
            possible += ["bf16"]
    return possible


def cpu_capabilities():
    """What torch says of the CPU, {"avx512_bf16": True, "cpu_name": ...}; nothing from a torch that is too old to."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def pick_precision(requested="auto"):
    """One of `precisions`. "auto" is what the launcher was told, else the best; UserError for an impossible one.

    A launcher that was told nothing says "no" too, so fp32 on better hardware takes --mixed_precision no.
    """
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if requested == "auto" and told == "no":
        return precisions()[-1]
    wanted = told if requested == "auto" else requested
    if wanted not in precisions():
        source = "the launcher's mixed_precision" if requested == "auto" else "--mixed_precision"
        raise UserError(f"{source} {wanted}: {describe()} computes {', '.join(precisions())}; without it: auto")
    return wanted


def max_tokens(model):
    """Most tokens in one forward pass of `model` where it is: more are no faster on a CPU; not measured on GPUs."""
    if model.device.type == "cpu":
        return 4096
    return max(512, 16384 * 768 // getattr(model.config, "hidden_size", 768))  # memory grows with the width


def fewer_tokens(error, max_tokens, longest):
    """Half of `max_tokens` if `error` says that memory ran out, after a line that says so; else `error` is raised.

    longest: tokens of the longest review to compute. RunError where it had a pass of its own: none can be smaller.
    """
    if not should_reduce_batch_size(error):
        raise error
    if max_tokens <= longest:
        raise RunError(f"out of memory with one review of {longest} tokens: {first_line(error)}") from error
    print(f"out of memory: going on with at most {max_tokens // 2} tokens in a pass", file=sys.stderr, flush=True)
    return max_tokens // 2


def autocast(device, precision):
    """Context in which matrix products run in `precision`, as `pick_precision` gives it."""
    dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def describe():
    """The device in words, such as "AMD EPYC" or "NVIDIA H100"."""
    device = pick_device()
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = "" if device.type != "cpu" else cpu_capabilities().get("cpu_name", "")
    return name or f"{device.type} ({platform.processor() or platform.machine()})"
