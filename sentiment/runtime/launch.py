"""Join the processes that a launcher started, on one machine or several."""

import sys
from datetime import timedelta
from os import environ

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.tracking import get_available_trackers

from sentiment.errors import RunError, UserError, first_line
from sentiment.runtime import device

TRACKERS = ["none", *map(str, get_available_trackers())]


def check_gpus():
    """UserError for more processes than GPUs; print a line if one of several is used."""
    processes, gpus = int(environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    one_each = gpus == 1 and environ.get("CUDA_VISIBLE_DEVICES")  # by srun
    if processes > gpus > 0 and not one_each:
        way = "start one per GPU, or hide the GPUs with CUDA_VISIBLE_DEVICES="
        raise UserError(f"{processes} processes, but only {gpus} GPUs here; {way}")
    if gpus > 1 == int(environ.get("WORLD_SIZE", 1)):
        way = f"accelerate launch --multi_gpu --num_processes {gpus} SCRIPT uses all"
        print(f"1 of {gpus} GPUs is used; {way}", file=sys.stderr)


def start(precision, tracker="none", folder=None):
    """This process's Accelerator. UserError: the launch cannot be right; RunError: it failed."""
    if "WORLD_SIZE" not in environ:
        if "MASTER_ADDR" in environ:
            way = "accelerate launch --multi_gpu --num_processes N starts N, on CPUs too"
            raise UserError(f"the launcher started only one process; {way}")
        if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            raise UserError("srun alone does not connect processes; use cluster/train.sbatch")
    check_gpus()
    # torchrun keeps one store for all attempts; restarted ranks need a new one.
    attempt = int(environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if attempt and environ["LOCAL_WORLD_SIZE"] == environ["WORLD_SIZE"]:
        environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
        environ["MASTER_PORT"] = str(int(environ["MASTER_PORT"]) + attempt)
    try:
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=precision,
            log_with=None if tracker == "none" else tracker,
            project_dir=folder,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],  # for downloads
        )
    except RuntimeError as error:
        raise RunError(f"could not connect the processes: {first_line(error)}") from error
    device.set_up(accelerator.device)  # after Accelerate, which sets the threads as well
    if accelerator.distributed_type in ("FSDP", "DEEPSPEED"):
        raise UserError(f"{accelerator.distributed_type.value} is not supported; use MULTI_GPU")
    return accelerator
