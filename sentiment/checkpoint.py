"""Checkpoints: all that a run needs to go on, written so that a crash at any moment leaves a good one.

    checkpoints/step-00000063/
        weights.safetensors     parameters and buffers
        optimizer.safetensors   AdamW's state of each parameter
        manifest.json           step, token budgets, fp16's scaler, settings; size and SHA-256 of the files, itself included

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

FOLDER, KEPT = "checkpoints", 2
# What a resumed run may change without changing its result. revision: the weights themselves are compared.
FREE = "output_dir overwrite_output_dir resume checkpointing_steps max_tokens_per_device report_to revision".split()


def identity(run):
    """What decides a run's result, from its run.json: settings, and digests of what two of them name."""
    return {
        "settings": {**run["settings"], "mixed_precision": run["precision"]},
        "content": {
            "dataset_name": hashlib.sha256(json.dumps(run["reviews"]).encode()).hexdigest(),
            "model_name_or_path": run["model_sha256"],
        },
    }


def refuse_changes(before, run):
    """Raise UserError if `run` would not give the result of the run with the identity `before`."""
    now, settings = identity(run), before["settings"]
    by_value = [name for name in now["settings"] if name not in (*FREE, *now["content"])]
    changed = [name for name in by_value if settings.get(name) != now["settings"][name]]
    for name, digest in now["content"].items():  # which other changed settings explain, too
        if before["content"][name] != digest and (settings[name] != now["settings"][name] or not changed):
            changed.append(name)
    if changed:
        words = (f"{name} {now['settings'][name]} (it was {settings.get(name)})" for name in changed)
        same = [name for name in changed if settings.get(name) == now["settings"][name]]
        hint = f"; what {' and '.join(same)} names has other contents now" if same else ""
        raise UserError(f"--resume: the run had other settings: {', '.join(words)}{hint}; start another run for these")


def newest(folder, run):
    """The step of the run folder's newest checkpoint that verifies; 0 if there is none at all.

    Newer ones that are damaged are removed, and so is what a kill left half written or half removed. Raises RunError if
    all are damaged, UserError if the checkpoint is that of a run with other settings.
    """
    for stale in (folder / FOLDER).glob(".tmp-*"):
        shutil.rmtree(stale)
    damaged = []
    for path in found(folder):
        if damage := damaged_file(path):
            damaged.append(path)
            print(f"checkpoint {path}: {damage} is damaged", flush=True)
            continue
        manifest = json.loads((path / "manifest.json").read_bytes())
        refuse_changes(manifest, run)
        for newer in damaged:
            remove(newer)
        return manifest["step"]
    if damaged:
        raise RunError(f"no checkpoint is whole: {damaged[0] / damage} is damaged; --overwrite_output_dir starts anew")
    return 0


def found(folder):
    """Folders of the checkpoints in a run folder, the newest first."""
    return sorted((folder / FOLDER).glob("step-*"), reverse=True)


def path_of(folder, step):
    return folder / FOLDER / f"step-{step:08d}"


def damaged_file(path):
    """The name of the first file of a checkpoint that is not as it was written; None if all are."""
    try:
        content = (path / "manifest.json").read_bytes()
        manifest = json.loads(content)
        manifest.pop("sha256")
        if seal(manifest) != content:
            return "manifest.json"
    except (FileNotFoundError, ValueError, LookupError, AttributeError, TypeError):
        return "manifest.json"
    return next((name for name, was in manifest["files"].items() if describe(path / name) != was), None)


def describe(path):
    """{"size", "sha256"} of a file; None if it is missing."""
    try:
        with open(path, "rb") as file:
            return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except FileNotFoundError:
        return None


def seal(manifest):
    """The bytes of manifest.json, its own SHA-256 among them."""
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
        scaler = accelerator.scaler and accelerator.scaler.state_dict()
        manifest = {"step": step, "max_tokens": budgets, "scaler": scaler, **identity(run)}
        sync(folder / "log.jsonl")  # it must not end before the checkpoint that it is cut back to
        write(path_of(folder, step), tensors_of(classifier, optimizer), manifest)
    processes.meet(accelerator)
    if accelerator.is_main_process:
        for old in found(folder)[KEPT:]:
            remove(old)


def tensors_of(classifier, optimizer):
    """{file: {name: tensor}}; buffers are copied, since some models let them share memory."""
    weights = {name: parameter.detach().contiguous() for name, parameter in classifier.named_parameters()}
    state = {
        f"{name}/{key}": value.contiguous()
        for name, parameter in classifier.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    buffers = {name: buffer.clone().contiguous() for name, buffer in classifier.named_buffers()}
    return {"weights.safetensors": weights | buffers, "optimizer.safetensors": state}


def write(path, tensors, manifest):
    """Write a checkpoint's folder: staged beside it, made durable, renamed once."""
    staged = path.with_name(f".tmp-{path.name}")
    try:
        staged.mkdir(parents=True)
        for name, content in tensors.items():
            save_file(content, staged / name)
        files = {name: describe(staged / name) for name in tensors}
        (staged / "manifest.json").write_bytes(seal({**manifest, "files": files}))
        for name in (*tensors, "manifest.json", "."):
            sync(staged / name)
        os.rename(staged, path)
        sync(path.parent)
    except BaseException as error:
        shutil.rmtree(staged, ignore_errors=True)  # on a full disk status.json needs the room
        if isinstance(error, SafetensorError):  # what the library makes of an OSError
            raise RunError(f"{path}: cannot be saved: {first_line(error)}") from error
        raise


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
    """Remove a checkpoint; first its name, so that a kill leaves no half of it."""
    gone = path.with_name(f".tmp-{path.name}")
    os.rename(path, gone)
    shutil.rmtree(gone)


def load(folder, run, step, accelerator, classifier, optimizer):
    """Put the state after `step` updates back in place; returns this process's token budget.

    That is the one in force when the checkpoint was saved, unless --max_tokens_per_device, or what it stands for on
    this hardware, has changed. Every process reads the files, on several machines from a folder they share.
    """
    path = path_of(folder, step)
    parameters, weights = dict(classifier.named_parameters()), load_file(path / "weights.safetensors")
    with torch.no_grad():
        for name, tensor in itertools.chain(parameters.items(), classifier.named_buffers()):
            tensor.copy_(weights[name])
    for name, value in load_file(path / "optimizer.safetensors").items():
        parameter, key = name.rsplit("/", 1)
        optimizer.state[parameters[parameter]][key] = value.to(accelerator.device, copy=True)
    manifest = json.loads((path / "manifest.json").read_bytes())
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(manifest["scaler"])
    asked, budgets = run["settings"]["max_tokens_per_device"], manifest["max_tokens"]
    if asked != manifest["settings"]["max_tokens_per_device"]:
        return asked
    return budgets[accelerator.process_index] if len(budgets) == accelerator.num_processes else min(budgets)
