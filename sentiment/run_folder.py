"""The run folder: all that passes between the scripts. README.md describes each file."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import filelock  # comes with torch, datasets and huggingface_hub

from sentiment import card, checkpoint, data
from sentiment.cli import Stopped, UserError, first_line

RECORDS = ("status.json", "run.json", "log.jsonl", "metrics.json", "README.md", "predictions.csv")
PICTURES = ("confusion.png", "curves.png", "reliability.png", "training.png")
TRACKED = "trackers"  # folder of what a tracker such as tensorboard writes
MODEL_FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
FINISHED = -1
LIBRARIES = ("torch", "accelerate", "transformers", "datasets", "huggingface_hub", "scikit-learn")

IDENTITY = {"split": str, "rows": [int], "sha256": str}
NAMES = ("dataset_name", "model_name_or_path", "output_dir", "text_column", "label_column")
RUN = {  # what is read of run.json
    "settings": {**dict.fromkeys(NAMES, str), "seed": int, "max_length": int},
    "labels": [str],
    "reviews": {"train": IDENTITY, "eval": IDENTITY},
    "commits": {"model": (str, type(None)), "dataset": (str, type(None))},
    "command": [str],
    "versions": dict,
    "git_commit": (str, type(None)),
    **{"device": str, "processes": int, "threads": int, "precision": str, "seconds": (int, float)},
}
UPDATE = {"step": int, "loss": float, "learning_rate": float}  # and of an update in log.jsonl


def refuse_unwritable(folder):
    """Raise UserError if `folder` is not there and cannot be made, or cannot be written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "cannot be written to" if there.is_dir() else "is a file"
        raise UserError(f"--output_dir {folder}: {there} {reason}; choose another folder")


def refuse_used(folder, overwrite, resume):
    """Raise UserError if `folder` holds a run or a model, unless it is one to `overwrite` or a run to `resume`."""
    held = next((name for name in (checkpoint.FOLDER, *RECORDS, *MODEL_FILES) if (folder / name).exists()), None)
    if held is None or overwrite or (resume and held in (checkpoint.FOLDER, "status.json")):
        return
    ways = "add --overwrite_output_dir" if resume else "add --resume or --overwrite_output_dir"
    raise UserError(f"--output_dir {folder}: holds {held} of another run; choose another folder or {ways}")


@contextmanager
def locked(folder):
    """Let no other run write into `folder` within the block. The lock dies with its process, on other machines too if
    their shared file system passes locks on. Raises UserError.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"--output_dir {folder}: another run is writing there; choose another folder") from None
    try:
        yield
    finally:
        if os.name != "nt":  # where an open file stays
            with suppress(OSError):  # a folder that has become read-only: what failed before has more to say
                (folder / ".lock").unlink()
        lock.release()


@contextmanager
def recorded(folder, run, active):
    """Begin a run in `folder`, or go on with the one that is there if run["settings"]["resume"]. Yields the number of
    updates done so far, FINISHED for a run that needs no more.

    run.json holds `run`; status.json says how the block ends, as finished, failed or preempted; until then, running.
    Does nothing on a process that is not `active`. UserError or RunError: another run writes there, or none can go on.
    """
    if not active:
        yield 0
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        settings, done = run["settings"], 0
        refuse_used(folder, settings["overwrite_output_dir"], settings["resume"])  # one may have come since
        if settings["resume"]:
            if (read_json(folder / "status.json") or {}).get("status") == "finished":
                before = read_json(folder / "run.json") or {}
                if "model_sha256" in before:  # a run of an earlier version does not tell
                    checkpoint.refuse_changes(checkpoint.identity(before), run)
                checkpoint.remove_all(folder)  # a kill may have left them
                print(f"the run in {folder} is finished: nothing is left to do")
                yield FINISHED
                return
            done = checkpoint.newest(folder, run)
            print(f"resume    after update {done}" if done else "resume    no checkpoint yet: from the start")
        write_status(folder, "running")
        clear(folder, done)
        write_json(folder / "run.json", run)
        try:
            yield done
        except BaseException as error:
            write_status(folder, "preempted" if isinstance(error, Stopped) else "failed", reason=first_line(error))
            raise
        write_status(folder, "finished")
        checkpoint.remove_all(folder)  # only now: a kill leaves a run that is finished or can go on


def clear(folder, done):
    """Remove what a run left in `folder`, but status.json; of one with `done` updates to go on from, only what it will
    write again.
    """
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if done:  # the evaluation after its last update comes again
        kept = [entry for entry in read_log(folder) if entry["step"] < done + ("loss" in entry)]
        write_text(folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept))
        return
    checkpoint.remove_all(folder)
    shutil.rmtree(folder / TRACKED, ignore_errors=True)
    for name in (*RECORDS[1:], *MODEL_FILES, *PICTURES):
        (folder / name).unlink(missing_ok=True)


def write_status(folder, status, **more):
    """status.json: running, preempted, finished or failed, since when, and `more` about it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / "status.json", {"status": status, "time": now, **more})


def write_json(path, value):
    """Write `value` so that a reader, or a crash, finds the old file or the new one and never half of it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path, text):
    """As write_json, for text."""
    staged = path.with_name(f".tmp-{path.name}")
    with open(staged, "w", encoding="utf-8", errors="backslashreplace") as file:  # names of files may be no UTF-8
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)


def read_json(path):
    """The value in a JSON file, or None if there is no such file. Raises UserError for a file that is no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error


def read_run(folder):
    """run.json, {} if there is none. Raises UserError for one in which something that is used is missing or strange."""
    run = read_json(folder / "run.json")
    if run is None:
        return {}
    if place := misfit(run, RUN) or (
        "the top: settings: dataset_name" if "\0" in run["settings"]["dataset_name"] else None
    ):
        raise UserError(
            f"{folder}: run.json is not as train.py writes it, at {place}; without it evaluate.py works too"
        )
    return run


def misfit(value, form, place="the top"):
    """Where a JSON value is not of a form such as RUN, or None: {key: form}, [type of the items], type or types."""
    if isinstance(form, dict) and isinstance(value, dict):
        return next(
            (found for key in form if (found := misfit(value.get(key, ...), form[key], f"{place}: {key}"))), None
        )
    if isinstance(form, list) and isinstance(value, list):
        return next((place for item in value if not isinstance(item, form[0])), None)
    return None if not isinstance(form, (dict, list)) and isinstance(value, form) else place


def read_log(folder):
    """Entries of log.jsonl, up to a line that a crash left torn or that is not train.py's; none without such a file."""
    path, entries = folder / "log.jsonl", []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if misfit(entry, {"step": int}) or ("loss" in entry and misfit(entry, UPDATE)):
            break
        entries.append(entry)
    return entries


def environment():
    """What a result may depend on besides the settings: {"command", "git_commit", "versions", "platform"}."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "command": command(),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), **versions},
        "platform": platform.platform(),
    }


def command():
    """The words of this process's command line, the script without its folder."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def git_commit():
    """The commit of this checkout, "-dirty" behind it if files were changed; None without git or a checkout."""
    if not shutil.which("git"):
        return None
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    answer = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True)
    return answer.stdout.strip() or None


def origin(dataset, split):
    """What metrics.json says of where its numbers come from, without private paths, since it is published."""
    words = [card.public(word) for word in command()]
    return {
        "dataset": card.public(dataset),
        "dataset_commit": data.commit_of(dataset),
        "split": split,
        "command": words,
    }


def write_results(folder, run, scores):
    """metrics.json, which holds `scores`, and the model card README.md."""
    write_json(folder / "metrics.json", scores)
    write_text(folder / "README.md", card.model_card(run, scores))
