"""Checkpoints: all that a run needs to go on, written so that a crash at any moment leaves a good one.

    checkpoints/step-00000063/
        weights.safetensors     parameters and buffers
        optimizer.safetensors   AdamW's state of each parameter
        manifest.json           step, token budgets, fp16's scaler, settings; size and SHA-256 of those, its own SHA-256

Everything else (the order of reviews, the learning rate, dropout) is a pure function of the settings and the step.
"""

import hashlib
import itertools
import json
import os
import shutil

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sentiment import processes
from sentiment.cli import RunError, UserError, first_line

FOLDER, KEPT, MANIFEST = "checkpoints", 2, "manifest.json"
# A resumed run may change these and give the same result. (A revision's weights are compared themselves.)
FREE = {"output_dir", "overwrite_output_dir", "resume", "checkpointing_steps", "max_tokens_per_device", "report_to"}
FREE |= {"revision"}


def identity(run):
    """What decides a run's result, out of its run.json: the settings, and digests of what two of them name."""
    data = hashlib.sha256(json.dumps(run["reviews"]).encode()).hexdigest()
    content = {"dataset_name": data, "model_name_or_path": run["model_sha256"]}
    return {"settings": {**run["settings"], "mixed_precision": run["precision"]}, "content": content}


def refuse_changes(before, run):
    """Raise UserError if `run` cannot give the result of the run with the identity `before`."""
    was, (settings, content) = before["settings"], identity(run).values()
    other = [name for name in settings if name not in FREE and settings[name] != was.get(name)]
    changed = [f"{name} {settings[name]} (was {was.get(name)})" for name in other if name not in content]
    for name, digest in content.items():  # contents follow from other settings, too: a seed draws other reviews
        if digest != before["content"][name] and (name in other or not changed):
            changed.append(f"{name} {settings[name]} (had other contents)")
    if changed:
        raise UserError(f"--resume: the run has begun otherwise: {', '.join(changed)}; start another for that")


def newest(folder, run):
    """The step of the run folder's newest checkpoint that verifies; 0 if there is none at all.

    Newer ones that are damaged are removed, and so is what a kill left half written or half removed. Raises RunError if
    all are damaged, UserError if `run` has other settings.
    """
    for stale in (folder / FOLDER).glob(".tmp-*"):
        shutil.rmtree(stale)
    damaged = []
    for path in found(folder):
        if name := damaged_file(path):
            damaged.append(path)
            print(f"checkpoint {path} is damaged ({name})", flush=True)
            continue
        refuse_changes(read(path), run)
        for newer in damaged:
            remove(newer)
        return read(path)["step"]
    if damaged:
        raise RunError(f"no checkpoint is whole: {damaged[-1] / name} is damaged; --overwrite_output_dir starts anew")
    return 0


def found(folder):
    """Folders of the checkpoints in a run folder, the newest first."""
    return sorted((folder / FOLDER).glob("step-*"), reverse=True)


def path_of(folder, step):
    return folder / FOLDER / f"step-{step:08d}"


def read(path):
    return json.loads((path / MANIFEST).read_bytes())


def damaged_file(path):
    """The name of the first file of a checkpoint that is not as it was written; None if all are."""
    try:
        manifest = read(path)
        del manifest["sha256"]
        sealed = seal(manifest) == (path / MANIFEST).read_bytes()
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        sealed = False
    if not sealed:
        return MANIFEST
    return next((name for name, was in manifest["files"].items() if describe(path / name) != was), None)


def describe(path):
    """{"size", "sha256"} of a file; nothing if it is missing."""
    if not path.exists():
        return {}
    with open(path, "rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def seal(manifest):
    """The bytes of a manifest, its own SHA-256 among them."""
    own = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return (json.dumps({**manifest, "sha256": own}, indent=1) + "\n").encode()


def save(folder, run, step, max_tokens, accelerator, classifier, optimizer):
    """Save the state after `step` updates; every process calls it, with its own token budget `max_tokens`.

    OSError or RunError, such as on a full disk, leaves the earlier checkpoints as they are.
    """
    budgets = torch.zeros(accelerator.num_processes, dtype=torch.int64, device=accelerator.device)
    budgets[accelerator.process_index] = max_tokens
    budgets = processes.add_up(accelerator, budgets).tolist()
    if accelerator.is_main_process and not path_of(folder, step).exists():
        parameters, weights = dict(classifier.named_parameters()), {}
        for name, tensor in itertools.chain(parameters.items(), classifier.named_buffers()):
            # Some models let their buffers share memory, which a file cannot.
            weights[name] = tensor.detach().contiguous() if name in parameters else tensor.clone()
        state = {f"{name}/{key}": t for name, p in parameters.items() for key, t in optimizer.state[p].items()}
        scaler = accelerator.scaler and accelerator.scaler.state_dict()
        manifest = {"step": step, "max_tokens": budgets, "scaler": scaler, **identity(run)}
        sync(folder / "log.jsonl")  # it must not end before the checkpoint that it is cut back to
        write(path_of(folder, step), {"weights.safetensors": weights, "optimizer.safetensors": state}, manifest)
    processes.meet(accelerator)
    if accelerator.is_main_process:
        for old in found(folder)[KEPT:]:
            remove(old)


def write(path, tensors, manifest):
    """Write a checkpoint's folder: staged beside it, made durable, renamed once. tensors: {file: {name: tensor}}."""
    staged = path.with_name(f".tmp-{path.name}")
    try:
        staged.mkdir(parents=True)
        for name, content in tensors.items():
            save_file(content, staged / name)
        files = {name: describe(staged / name) for name in tensors}
        (staged / MANIFEST).write_bytes(seal({**manifest, "files": files}))
        for name in (*tensors, MANIFEST, "."):
            sync(staged / name)
        os.rename(staged, path)
        sync(path.parent)
    except SafetensorError as error:  # what the library makes of an OSError
        raise RunError(f"{path}: cannot be saved: {first_line(error)}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # where a disk is full, status.json needs the room


def sync(path):
    """Make a file's content, or a folder's entries, survive a power cut. (Windows has no such thing for folders.)"""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path):
    """Remove a checkpoint, its name first, so that a kill leaves no half of it."""
    gone = path.with_name(f".tmp-{path.name}")
    os.rename(path, gone)
    shutil.rmtree(gone)


def remove_all(folder):
    """Remove all checkpoints of a run folder, if there are any."""
    if (folder / FOLDER).exists():
        shutil.rmtree(folder / FOLDER)


def load(folder, run, step, accelerator, classifier, optimizer):
    """Put the state after `step` updates back in place; returns this process's token budget.

    That is the one in force at the save, unless --max_tokens_per_device, or what it is on this hardware, has changed.
    Every process reads the files, on several machines from a folder they share. Step 0 is as the run begins.
    """
    asked = run["settings"]["max_tokens_per_device"]
    if not step:
        return asked
    path, parameters = path_of(folder, step), dict(classifier.named_parameters())
    weights, manifest = load_file(path / "weights.safetensors"), read(path)
    with torch.no_grad():
        for name, tensor in itertools.chain(parameters.items(), classifier.named_buffers()):
            tensor.copy_(weights[name])
    for name, value in load_file(path / "optimizer.safetensors").items():
        parameter, key = name.rsplit("/", 1)
        optimizer.state[parameters[parameter]][key] = value.to(accelerator.device, copy=True)
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(manifest["scaler"])
    if asked != manifest["settings"]["max_tokens_per_device"]:
        return asked
    budgets = manifest["max_tokens"]
    return budgets[accelerator.process_index] if len(budgets) == accelerator.num_processes else min(budgets)
