"""Wait for the other ranks, sum over all. Raises RunError if another process is lost."""

import re
from collections import Counter
from contextlib import contextmanager

import torch

from sentiment.errors import RunError, is_out_of_memory

begun = Counter(collectives=0, passes=0)  # of this rank, for runtime/watch.py


@contextmanager
def main_process_first(accelerator):
    """The main process runs the block before the others; it may download what they then find."""
    if accelerator.is_main_process:
        yield
        barrier(accelerator)
    else:
        barrier(accelerator)
        yield


def all_reduce(accelerator, tensor):
    """Sum a tensor over all ranks, in place. Returns it."""
    begun["collectives"] += 1
    try:
        if accelerator.num_processes > 1:
            torch.distributed.all_reduce(tensor)
    except RuntimeError as error:
        # This rank's own: CUDA errors are asynchronous.
        named = re.search("Cuda failure|Duplicate GPU", str(error))
        own = named or isinstance(error, torch.AcceleratorError)
        if own or is_out_of_memory(error):
            raise
        raise RunError("another process exited; see its output for the reason") from error
    return tensor


def gather(accelerator, number):
    """The integers of all ranks."""
    numbers = torch.zeros(accelerator.num_processes, dtype=torch.int64, device=accelerator.device)
    numbers[accelerator.process_index] = number
    return all_reduce(accelerator, numbers).tolist()


def broadcast(accelerator, number):
    """The main process's integer."""
    return gather(accelerator, number)[0]


def barrier(accelerator):
    # Accelerate's takes the local rank as the GPU's number, also where each process sees one GPU.
    gather(accelerator, 0)
