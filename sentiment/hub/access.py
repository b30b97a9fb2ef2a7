"""Reading from the Hub, or its cache if the Hub does not answer. Raises UserError."""

import errno
import os
import re
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import filelock
from huggingface_hub import constants, get_session, is_offline_mode, snapshot_download
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import hf_raise_for_status, logging

from sentiment.errors import UserError, first_line

PROBE_SECONDS = 4  # without an answer, the Hub is offline
PATIENCE, PAUSE = 60, 5  # seconds to wait for a busy Hub: in all, between attempts
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN (hf.co/settings/tokens)"
HINTS = {  # what to do about errors of the readers
    "codec can't decode": "save it as UTF-8",
    "EOF inside string": "a quote opens there that is never closed",
    "fields in line": "quote texts that hold the separator",
}
FILE = r"(?i).*\.(csv|tsv|txt|jsonl?|ndjson|parquet|arrow|xlsx?|gz|zip|tar|bin|safetensors)"

logging.set_verbosity_error()


def connect(*names):
    """Call before loading anything, with the paths and Hub ids to load.

    If the Hub does not answer, the cache is used; libraries would retry for over a minute.
    """
    ids = [name for name in names if not name or not Path(name).exists()]
    for name in ids:
        hub_id = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) and not os.path.islink(name)
        if not hub_id or re.fullmatch(FILE, name):
            raise UserError(f"{name or 'empty name'}: no such file or folder")
    if ids and not is_offline_mode() and not with_timeout(ask_hub, PROBE_SECONDS):
        os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries imported later
        constants.HF_HUB_OFFLINE = True


def ask_hub():
    return get_session().head(constants.ENDPOINT)


def with_timeout(ask, seconds):
    """[ask()], or [] on failure or timeout."""
    answers = []

    def run():
        with suppress(Exception):  # DNS, TLS, proxies, a bad HF_ENDPOINT: no common type
            answers.append(ask())

    # In a thread: a DNS lookup has no timeout.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers


def patiently(load, name):
    """load(False) reads `name` from the Hub; if that is busy, load(True) from the cache, else the
    Hub again, for PATIENCE seconds.
    """
    refused, hooks = [], get_session().event_hooks["response"]

    def refuse(response):  # the libraries would wait before they read the cache
        busy = response.status_code == 429 or response.status_code >= 500
        if busy and str(response.url).startswith(constants.ENDPOINT):
            refused.append(response.status_code)
            response.read()
            hf_raise_for_status(response)

    hooks.append(refuse)
    try:
        for left in range(PATIENCE, -1, -PAUSE):
            refused.clear()
            try:
                result = load(False)
                if not refused:
                    return result
            except Exception:  # the libraries share no error type
                if not refused:
                    raise
            busy = f"{constants.ENDPOINT} is busy (status {refused[0]})"
            with suppress(Exception):  # not in the cache
                return load(True)
            if not left:
                raise UserError(f"{name}: {busy}; try again later, or for a higher limit {LOG_IN}")
            if left == PATIENCE:
                print(f"{busy}; retrying for {PATIENCE} s", file=sys.stderr)
            time.sleep(PAUSE)
    finally:
        hooks.remove(refuse)


def snapshot(name, revision, patterns):
    """The folder of a model in the cache."""
    if not is_offline_mode():
        check_cache(constants.HF_HUB_CACHE, "HF_HUB_CACHE")
    try:
        given = {"revision": revision, "allow_patterns": patterns}
        return Path(patiently(lambda _: snapshot_download(name, **given), name))
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise unavailable(name, error) from error


def check_cache(folder, variable):
    """Raise unless files can be written and locked there."""
    try:
        if str(folder).startswith("~"):
            raise FileNotFoundError(errno.ENOENT, "no home folder")
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as probe, filelock.FileLock(f"{probe}/lock"):
            return
    except OSError as error:
        variable = variable if variable in os.environ else "HF_HOME"
        reason = f"cannot be written or locked ({error.strerror})"
        raise UserError(f"the cache {folder} {reason}; set {variable} to another folder") from error


def unavailable(name, error):
    """A UserError that says why a model or data `name` cannot be loaded, and what to do."""
    # datasets starts with a sentence that says nothing; the Hub's own message comes last.
    text = str(error).removeprefix("An error occurred while generating the dataset\n")
    reason = getattr(error, "server_message", None) or first_line(text)
    local = Path(name).exists()
    listed = re.search(r"(?:[Aa]vailable.*?\[|in the cache: )([^]\n]+)", str(error))
    if listed and not local:
        reason = f"give --dataset_config_name, one of: {listed[1]}".replace("'", "")
    elif "scripts are no longer supported" in reason:
        way = "--dataset_revision refs/convert/parquet may hold the same data as Parquet"
        reason = f"it needs a loading script, and downloaded code is never run; {way}"
    elif isinstance(error, GatedRepoError) or "a gated dataset" in reason:
        reason = f"it is gated: ask for access at {constants.ENDPOINT}, then {LOG_IN}"
    elif isinstance(error, RepositoryNotFoundError) or "doesn't exist on the Hub" in reason:
        reason = f"not a folder here, nor on the Hub; if it is private there, {LOG_IN}"
    elif not local and is_offline_mode():
        why = f"{constants.ENDPOINT} does not answer or HF_HUB_OFFLINE is set"
        way = "give a folder, such as those in sample/, or load it once with a network"
        reason = f"not a folder here, not in the cache, and {why}; {way}"
    else:
        empty = "no data" in reason or not str(error)
        hints = [f" ({hint})" for words, hint in HINTS.items() if words in reason]
        reason = f"cannot be read: {'no rows' if empty else reason}{''.join(hints)}"
    return UserError(f"{name}: {reason}")
