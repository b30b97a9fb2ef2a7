"""Wait for the other ranks, sum over all. Raises RunError if another process is lost."""

from collections import Counter
from contextlib import contextmanager

import torch

from sentiment.errors import RunError, is_out_of_memory

begun = Counter(collectives=0, passes=0)  # of this rank, for runtime/watch.py


@contextmanager
def main_process_first(accelerator):
    """The main process runs the block before the others; it may download what they then find."""
    first = accelerator.is_main_process
    if not first:
        barrier(accelerator)
    yield
    if first:
        barrier(accelerator)


@contextmanager
def peer_lost():
    begun["collectives"] += 1
    try:
        yield
    except RuntimeError as error:
        # This rank's own: CUDA errors are asynchronous.
        own = isinstance(error, torch.AcceleratorError) or "Cuda failure" in str(error)
        if own or is_out_of_memory(error):
            raise
        raise RunError("another process exited; see its output for the reason") from error


@peer_lost()
def barrier(accelerator):
    accelerator.wait_for_everyone()


@peer_lost()
def all_reduce(accelerator, tensor):
    """Sum a tensor over all ranks, in place. Returns it."""
    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def broadcast(accelerator, number):  # 0 on the others
    return int(all_reduce(accelerator, torch.tensor(number, device=accelerator.device)))
