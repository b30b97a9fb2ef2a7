"""The run folder: checks, lock, status.json."""

import errno
import json
import os
import sys
import zlib
from argparse import Namespace
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import filelock

from sentiment import checkpoint, distributed, files
from sentiment.errors import Stopped, UserError, first_line
from sentiment.run import Run
from sentiment.runtime.log import read_log

PICTURES = ("confusion.png", "curves.png", "reliability.png", "training.png")
# Beside status.json; cleared in this order.
CONTENT = (checkpoint.FOLDER, "trackers", "evaluations", "run.json", "log.jsonl", "metrics.json")
CONTENT += ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
CONTENT += ("README.md", "predictions.csv", *PICTURES)
FINISHED = -1
NO_LOCKS = errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP  # of some network file systems


def check(args):
    """train.py's --output_dir. Raises UserError if the run may not write there."""
    folder = Path(args.output_dir)
    check_writable(folder)
    held = [name for name in ("status.json", *CONTENT) if (folder / name).exists()]
    run = "status.json" in held or checkpoint.paths(folder)
    if held and not (args.overwrite_output_dir or (args.resume and run)):
        resume = "--resume or " if run else ""
        refuse(folder, f"already holds {held[0]}", f", or add {resume}--overwrite_output_dir")
    for path in map(Path, (args.model_name_or_path, args.dataset_name)):
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            refuse(folder, f"contains {path}")
    return folder


def check_writable(folder):
    paths = folder, *folder.absolute().parents
    there = next(path for path in paths if path.exists() or path.is_symlink())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        refuse(folder, f"{there} is not a folder, or not writable")


def refuse(folder, reason, or_else=""):
    raise UserError(f"--output_dir {folder}: {reason}; choose another folder{or_else}")


@contextmanager
def locked(folder):
    """Let no other run write into `folder`, or raise UserError. A lock dies with its process."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        refuse(folder, "another run is writing there")
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"{folder} has no locks: start no second run there", file=sys.stderr)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows cannot; in a read-only folder, the first error says more
            (folder / ".lock").unlink()
        lock.release()


@contextmanager
def open_run(run, accelerator):
    """Start a run in its --output_dir, or resume it. Yields the steps done so far, or FINISHED.

    status.json says how the block ended. UserError or RunError: the run cannot start or resume.
    """
    check_agreement(run, accelerator)
    if not accelerator.is_main_process:
        yield distributed.broadcast(accelerator, 0)
        return
    folder, args, step = run.folder, Namespace(**run.settings), 0
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        check(args)  # again: another run may have come before
        for stale in (*folder.glob(".tmp-*"), *folder.glob(f"{checkpoint.FOLDER}/.tmp-*")):
            files.remove(stale)
        before = args.resume and files.read_json(folder / "status.json")
        if before and before.get("status") == "finished":
            if was := Run.read(folder):
                run.check_resumes(was.identity())
            files.remove(folder / checkpoint.FOLDER)  # a kill may have left it
            print(f"the run in {folder} is already finished")
            yield distributed.broadcast(accelerator, FINISHED)
            return
        if args.resume:
            step = checkpoint.newest(folder, run)
            print(f"resume    after step {step}" if step else "resume    no checkpoint yet")
        write_status(folder, "running")
        clear(folder, step)
        run.write(folder)
        try:
            yield distributed.broadcast(accelerator, step)
        except BaseException as error:
            status = "preempted" if isinstance(error, Stopped) else "failed"
            with suppress(OSError):  # a full disk must not hide `error`
                write_status(folder, status, reason=first_line(error))
            raise
        write_status(folder, "finished")
        files.remove(folder / checkpoint.FOLDER)  # last: a killed run is finished or can resume


def check_agreement(run, accelerator):
    """Raise UserError if ranks would train different models, or save at other steps."""
    same = {"checkpointing_steps": run.settings["checkpointing_steps"]} | run.identity()
    for name, value in reversed(same.items()):  # model and data last
        digests = distributed.gather(accelerator, zlib.crc32(repr(value).encode()))
        if len(set(digests)) > 1:
            raise UserError(f"--{name}: the processes differ in it, or in what it names")


def clear(folder, step):
    """Clear the folder for a new run, or truncate the log to a resumed `step`."""
    if not step:
        for name in CONTENT:
            files.remove(folder / name)
        return
    # Steps up to `step`, and evaluations before it.
    kept = [entry for entry in read_log(folder) if entry["step"] < step + ("loss" in entry)]
    files.write_text(folder / "log.jsonl", "".join(f"{json.dumps(entry)}\n" for entry in kept))


def write_status(folder, status, **more):
    now = datetime.now(UTC).isoformat(timespec="seconds")
    files.write_json(folder / "status.json", {"status": status, "time": now, **more})
