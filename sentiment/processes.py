"""The processes of a run: one on a CPU or a GPU, or as many as a launcher started on one machine or several."""

import os
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import DistributedType

from sentiment.cli import RunError, UserError, first_line

GONE = "another process of this run is gone; the reason stands in its own output"
PATIENCE = timedelta(hours=2)  # for the main process, which may have a model to download


def start(precision, **options):
    """The Accelerator of this process; `options` are its own. Raises UserError where the launcher cannot be right."""
    if "WORLD_SIZE" not in os.environ:
        if "MASTER_ADDR" in os.environ:
            raise UserError(
                "the launcher was asked for several processes and started one; accelerate launch --multi_gpu "
                "--num_processes N starts N, on CPUs too"
            )
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            raise UserError("srun started several processes that do not know of each other; use cluster/train.sbatch")
    patient = [InitProcessGroupKwargs(timeout=PATIENCE)]
    options |= {"mixed_precision": precision, "kwargs_handlers": patient}
    try:
        meet_again()
        accelerator = Accelerator(cpu=not torch.accelerator.is_available(), **options)
    except RuntimeError as error:
        raise RunError(f"the processes of this run do not meet: {first_line(error)}") from error
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UserError(f"{accelerator.distributed_type.value}: the model is not sharded here; MULTI_GPU is possible")
    return accelerator


def meet_again():
    """Where torchrun has restarted the processes of one machine, let them meet at a place of this attempt's own.

    torchrun (2.13) keeps one store for all attempts; there they would find the addresses of the dead.
    """
    environ = os.environ
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or environ["TORCHELASTIC_USE_AGENT_STORE"] != "True":
        return
    if environ["LOCAL_WORLD_SIZE"] == environ["WORLD_SIZE"]:  # the agents of several machines count for themselves
        store = torch.distributed.TCPStore(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False)
        store = torch.distributed.PrefixStore(f"attempt {attempt}", store)
        place = {"store": store, "rank": int(environ["RANK"]), "world_size": int(environ["WORLD_SIZE"])}
        torch.distributed.init_process_group(timeout=PATIENCE, **place)


@contextmanager
def main_first(accelerator):
    """The main process goes through the block, which may download, before the others, which then find the cache.

    Accelerate's own would end in a traceback on the others where the main process meets a mistake.
    """
    if not accelerator.is_main_process:
        meet(accelerator)
    yield
    if accelerator.is_main_process:
        meet(accelerator)


def meet(accelerator):
    """Wait for all processes. Raises RunError if one of them is gone."""
    try:
        accelerator.wait_for_everyone()
    except RuntimeError as error:
        raise RunError(GONE) from error


def add_up(accelerator, tensor):
    """The sum of a tensor over all processes, on each of them. Raises RunError if one of them is gone."""
    if accelerator.num_processes == 1:
        return tensor
    try:
        return accelerator.reduce(tensor, "sum")
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RunError(GONE) from error
