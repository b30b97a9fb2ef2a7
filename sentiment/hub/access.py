"""Reading from the Hub, or from its cache if the Hub does not answer."""

import functools
import os
import re
import threading
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, get_session, is_offline_mode
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import logging

from sentiment.errors import UserError, first_line

PROBE_SECONDS = 3  # without an answer, the Hub is offline

logging.set_verbosity_error()


def connect(*names):
    """Call before loading anything, with the paths and Hub ids to load. Raises UserError.

    If the Hub does not answer, the cache is used; the libraries would retry for over a minute.
    """
    ids = [name for name in names if not Path(name).exists()]
    for name in ids:
        possible = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name)
        if not possible or name.endswith((".csv", ".jsonl", ".parquet", ".gz")):
            raise UserError(f"{name}: no such file or folder")
    if ids and not is_offline_mode() and not any(with_timeout(hub_answers)):
        os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries imported later
        constants.HF_HUB_OFFLINE = True


def hub_answers():
    try:
        return get_session().head(constants.ENDPOINT).status_code < 500
    # Whatever fails means offline. DNS, TLS, proxies and a bad HF_ENDPOINT share no error type.
    except Exception:
        return False


def with_timeout(ask):
    """[ask()], or [] if it takes too long."""
    answers, session = [], get_session()
    usual, session.timeout = session.timeout, PROBE_SECONDS
    # In a thread, since a DNS lookup has no timeout.
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    session.timeout = usual
    return answers


def snapshot(name, revision, patterns):
    """The folder of a model in the cache. Raises UserError."""
    try:
        download = huggingface_hub.snapshot_download
        return Path(download(name, revision=revision, allow_patterns=patterns))
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise unavailable(name, error) from error


def quiet_datasets():
    """The datasets library, to be imported after `connect`."""
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    return datasets


@functools.cache  # one call for each split
def dataset(name):
    """{split: datasets.Dataset} of a data set on the Hub. UserError, OSError."""
    datasets = quiet_datasets()
    failure = datasets.exceptions.DatasetGenerationError
    try:
        return datasets.load_dataset(name)
    except (failure, HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ or error
        if type(cause) is OSError:  # for example a full disk
            raise cause from None
        raise unavailable(name, cause) from error


def commit_of(name, folder=None):
    """The commit of a model in its `folder`, or of a data set; None for local files."""
    if Path(name).exists():
        return None
    if folder is None:
        files = next(iter(dataset(name).values())).cache_files
        folder = Path(files[0]["filename"]).parent if files else None
    return folder and folder.name  # the cache names its folders so


def unavailable(name, error):
    """A UserError that says why `name` cannot be loaded and what to do."""
    if Path(name).exists() or not is_offline_mode():
        return UserError(f"{name}: cannot be loaded: {first_line(error)}")
    why = f"{constants.ENDPOINT} does not answer or HF_HUB_OFFLINE is set"
    way = "give a folder, such as those in sample/, or load it once with a network"
    return UserError(f"{name}: not a folder here, not in the cache, and {why}; {way}")
