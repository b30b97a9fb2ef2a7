"""Writes that survive a crash: a reader finds the old file or the whole new one."""

import errno
import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from sentiment.errors import RunError, UserError, first_line


@contextmanager
def staging(path):
    """Yield a temporary path beside `path`, and remove what is left there. OSError, RunError."""
    staged = path.with_name(f".tmp-{path.name}")
    try:
        yield staged
    except SafetensorError as error:  # the library's name for an OSError
        raise RunError(f"{path}: cannot be saved: {first_line(error)}") from error
    finally:
        with suppress(OSError):  # what failed before says more
            remove(staged)  # on a full disk, status.json needs the room


def publish(staged, path):
    """Make the file `staged` durable, then rename it to `path`."""
    sync(staged)
    os.replace(staged, path)
    sync(path.parent)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish_with_digest(staged, path, end=""):
    """As `publish`; the name is `path`, the digest and `end`. Returns the new path."""
    named = path.with_name(f"{path.name}-{digest(staged)}{end}")
    publish(staged, named)
    return named


def is_whole(path):
    return path.is_file() and path.stem.endswith(f"-{digest(path)}")


def sync(path):
    """Flush a file, or a folder's entries, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or path.is_file():  # some mounts flush no folders
            raise
    finally:
        os.close(descriptor)


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path, text):
    with staging(path) as staged:
        # Settings may hold file names that are not UTF-8.
        staged.write_text(text, encoding="utf-8", errors="backslashreplace")
        publish(staged, path)


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path):
    """The object in a JSON file, or None. Raises UserError."""
    try:
        return {**json.loads(Path(path).read_text(encoding="utf-8"))}  # TypeError: not an object
    except FileNotFoundError:
        return None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON object: {error}") from error
