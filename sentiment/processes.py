"""The processes of a run: one on a CPU or a GPU, or as many as a launcher started on one machine or several."""

import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from sentiment.cli import RunError, UserError


def start(precision, **options):
    """The Accelerator of this process; `options` are its own. Raises UserError where the launcher cannot be right."""
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise UserError(
            "the launcher was asked for several processes and started one; accelerate launch --multi_gpu "
            "--num_processes N starts N, on CPUs too"
        )
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=precision, **options)
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UserError(f"{accelerator.distributed_type.value}: the model is not sharded here; MULTI_GPU is possible")
    return accelerator


def printer(accelerator):
    """print on the main process, nothing on the others. (Accelerate's own prints once on each machine.)"""
    return print if accelerator.is_main_process else lambda *values, **options: None


def add_up(accelerator, tensor):
    """The sum of a tensor over all processes, on each of them. Raises RunError if one of them is gone."""
    try:
        return accelerator.reduce(tensor, "sum")
    except RuntimeError as error:
        raise RunError("another process of this run is gone; the reason stands in its own output") from error
