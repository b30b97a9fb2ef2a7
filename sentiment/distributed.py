"""Several processes, one result: wait for each other, sum tensors over the ranks.

Everything here raises RunError if another process is lost.
"""

from contextlib import contextmanager

import torch

from sentiment.errors import RunError, is_out_of_memory


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
    """The sum of a tensor over all ranks, on every rank."""
    return tensor if accelerator.num_processes == 1 else accelerator.reduce(tensor, "sum")


def broadcast(accelerator, number):  # 0 on the others
    return int(all_reduce(accelerator, torch.tensor(number, device=accelerator.device)))


def all_reduce_gradients(accelerator, parameters, loss, stop):
    """Sum gradients (in place) and loss over the ranks. Returns a tensor: loss, stopping ranks."""
    for parameter in parameters:  # a rank without reviews adds zeros
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    scalars = torch.stack([loss, torch.full_like(loss, bool(stop))])
    if accelerator.num_processes == 1:
        return scalars
    tensors = [*(parameter.grad for parameter in parameters), scalars]
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    sums = all_reduce(accelerator, flat).split([tensor.numel() for tensor in tensors])
    for tensor, total in zip(tensors, sums, strict=True):
        tensor.copy_(total.view_as(tensor))
    return scalars
