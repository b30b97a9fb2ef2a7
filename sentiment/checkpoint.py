"""Checkpoints: all a run needs to resume, in one file each. A crash leaves no partial file.

    checkpoints/step-00000063-<SHA-256 of the file>.safetensors

It holds the weights, AdamW's state and what `save` puts into its header. Data order, learning rate
and dropout follow from the settings and the step.
"""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sentiment import distributed, files
from sentiment.errors import RunError
from sentiment.run import differences

FOLDER, KEPT = "checkpoints", 2


def paths(folder, step=None):
    """Paths of all checkpoints in a run folder, the newest first, or of the one after `step`."""
    name = "*" if step is None else f"{step:08d}-*"
    return sorted((folder / FOLDER).glob(f"step-{name}"), reverse=True)


def header(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["checkpoint"])


def newest(folder, run):
    """The step of the newest intact checkpoint, or 0. Removes newer, damaged ones.

    RunError: all are damaged; UserError: other settings.
    """
    found = paths(folder)
    for i, path in enumerate(found):
        if files.is_whole(path):
            state = header(path)
            run.check_resumes(state["identity"])
            if other := differences(run.machine(), state["machine"]):
                print(f"note      not bit-identical from here: {', '.join(other)}")
            for damaged in found[:i]:
                files.remove(damaged)
            return state["step"]
        print(f"checkpoint {path} is damaged")
    if found:
        raise RunError(f"{path} and all newer ones are damaged; use --overwrite_output_dir")
    return 0


def save(run, step, max_tokens, accelerator, classifier, optimizer):
    """Save the state after `step` steps; every rank calls it, with its own token budget.

    OSError or RunError, for example on a full disk, leaves the earlier ones.
    """
    budgets = distributed.gather(accelerator, max_tokens)
    if accelerator.is_main_process and not paths(run.folder, step):
        tensors = {}
        for name, parameter in classifier.named_parameters():
            tensors[f"model/{name}"] = parameter.detach().contiguous()
            for key, value in optimizer.state[parameter].items():
                tensors[f"optimizer/{name}/{key}"] = value
        for name, buffer in classifier.named_buffers():
            tensors[f"model/{name}"] = buffer.clone()  # safetensors refuses shared memory
        state = {
            "step": step,
            "history": run.history,
            "identity": run.identity(),
            "asked": run.settings["max_tokens_per_device"],
            "max_tokens": budgets,
            "machine": run.machine(),
            "scaler": accelerator.scaler and accelerator.scaler.state_dict(),
        }
        files.sync(run.folder / "log.jsonl")  # the log must reach the newest checkpoint
        write(run.folder / FOLDER / f"step-{step:08d}", tensors, state)
        kept = paths(run.folder)[:KEPT]
        if run.settings["load_best_model_at_end"]:
            kept += paths(run.folder, run.best_epoch * run.steps_per_epoch)
        for old in set(paths(run.folder)).difference(kept):
            files.remove(old)
    distributed.barrier(accelerator)


def write(path, tensors, state):
    path.parent.mkdir(exist_ok=True)
    with files.staging(path) as staged:
        save_file(tensors, staged, {"checkpoint": json.dumps(state)})
        files.publish_with_digest(staged, path, ".safetensors")


def load(run, step, accelerator, classifier, optimizer):
    """Restore the state after `step` steps; every rank reads the file. Raises RunError.

    Returns (this rank's token budget, run.history).
    """
    asked = run.settings["max_tokens_per_device"]
    if not step:
        return asked, []
    path = next(iter(paths(run.folder, step)), None)
    if not path or not files.is_whole(path):
        raise RunError(f"{run.folder}: the checkpoint of step {step} is damaged, or not shared")
    state, parameters = header(path), dict(classifier.named_parameters())
    tensors = parameters | dict(classifier.named_buffers())
    with safe_open(path, "pt") as file, torch.no_grad():
        for key in file.offset_keys():
            part, name, *rest = key.split("/")
            if part == "model":
                tensors[name].copy_(file.get_tensor(key))
            else:
                value = file.get_tensor(key).to(accelerator.device, copy=True)
                optimizer.state[parameters[name]][rest[0]] = value
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(state["scaler"])
    budgets, history = state["max_tokens"], state["history"]
    if asked != state["asked"]:
        return asked, history  # another flag
    if len(budgets) != accelerator.num_processes:
        return min(budgets), history
    return budgets[accelerator.process_index], history
