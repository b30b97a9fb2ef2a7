"""The Hugging Face Hub: is it there, may we write to it, and the only write to it."""

import os
import re
import shlex
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, constants, get_session, is_offline_mode
from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import logging, validate_repo_id

from sentiment.cli import RunError, UserError, first_line

PROBE_SECONDS = 3  # of silence that count as no answer before any work
ANSWER_SECONDS = 60  # of silence in a push that count as a lost connection
WAITS = (1, 2, 4, 8, 16, 32)  # seconds between the tries of a push
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write (hf.co/settings/tokens)"

logging.set_verbosity_error()


def connect(*names):
    """Call before anything is loaded, with what will be: each a path that exists, or a Hub id.

    If the Hub is needed and does not answer one short question, HF_HUB_OFFLINE is set and the cache answers for it;
    the libraries would first try for most of a minute. Raises UserError for what can be neither a path nor an id.
    """
    ids = [name for name in names if not Path(name).exists()]
    for name in ids:
        if not is_id(name):
            raise UserError(f"{name}: no such file or folder")
    if ids and not is_offline_mode() and not hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"  # for the libraries that are not imported yet
        constants.HF_HUB_OFFLINE = True  # for those that are


def is_id(name):
    """Whether `name` can be a Hub id, such as "stanfordnlp/imdb", rather than a path."""
    looks_so = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) and not name.endswith(
        (".csv", ".jsonl", ".parquet", ".gz")
    )
    return bool(looks_so) and not Path(name).exists()


def hub_answers():
    """Whether HF_ENDPOINT answers anything but a server error within PROBE_SECONDS, looking up its address included."""

    def ask():
        try:
            return get_session().head(constants.ENDPOINT).status_code < 500
        except Exception:  # no route, no address, a bad HF_ENDPOINT (httpx's InvalidURL): they have no type in common
            return False  # nothing is hidden: the cache is asked instead, and what it lacks is named

    return any(soon(ask))


def soon(ask):
    """What `ask()` returns, in a list, which is empty if it takes much longer than PROBE_SECONDS."""
    answers = []

    def limited():
        with time_limit(PROBE_SECONDS):
            answers.append(ask())

    thread = threading.Thread(target=limited, daemon=True)  # the look-up of an address knows no time limit of its own
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    return answers


@contextmanager
def time_limit(seconds):
    """Within the block a Hub that is silent for that long is a lost connection; the library waits for ever else."""
    session = get_session()
    usual, session.timeout = session.timeout, seconds
    try:
        yield
    finally:
        session.timeout = usual


def snapshot(name, revision, files):
    """The folder in the cache with those of `files`, patterns, that the model `name` on the Hub has. UserError."""
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=files))
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(unavailable(name, error, "sample/model")) from error


def unavailable(name, error, sample):
    """One line that says why `name` cannot be loaded and how to go on."""
    if not Path(name).exists() and is_offline_mode():
        return (
            f"{name}: not a folder here, not in the cache, and {constants.ENDPOINT} does not answer or HF_HUB_OFFLINE "
            f"is set; give a folder ({sample} needs no network), or load it once with a network to fill the cache"
        )
    return f"{name}: cannot be loaded: {first_line(error)}"


def refuse_unwritable(repo_id, private):
    """Raise UserError unless the user's token may push to the model `repo_id`, or create it; within 4 seconds.

    private: whether it is to be private; one that exists and is public is refused then.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--hub_model_id {repo_id}: {first_line(error)}") from error
    if repo_id.count("/") != 1:
        raise UserError(f"--hub_model_id {repo_id}: a Hub id is needed, USER/REPO")
    if is_offline_mode():
        raise UserError(f"--hub_model_id {repo_id}: HF_HUB_OFFLINE is set; unset it to push")
    reasons = soon(lambda: refusal(repo_id, private)) or [f"{constants.ENDPOINT} does not answer; push later"]
    if reasons[0]:
        raise UserError(f"--hub_model_id {repo_id}: {reasons[0]}")


def refusal(repo_id, private):
    """Why the token cannot be used to push to `repo_id`; None if it can."""
    try:
        user = huggingface_hub.whoami()
    except LocalTokenNotFoundError:
        return f"no token; {LOG_IN}"
    except (HTTPError, ValueError) as error:  # ValueError: an answer that is not the Hub's
        return meaning(error, "the token is not valid")
    token = user.get("auth", {}).get("accessToken", {})
    try:
        huggingface_hub.auth_check(repo_id, write=True)
        if private and not huggingface_hub.model_info(repo_id).private:
            return "this repository is public; make it private in its settings, or leave --private out"
    except RepositoryNotFoundError:
        owner, owners = repo_id.split("/")[0], [user["name"], *(group["name"] for group in user.get("orgs", []))]
        if owner not in owners:
            return f"{user['name']} cannot create a repository there; possible are {', '.join(owners)}"
        if not may_create(token, owner):
            return f"the token may not create it; {LOG_IN}"
    except (HTTPError, ValueError) as error:
        return meaning(error, "the token may not write to it")
    return None


def meaning(error, refused):
    """What an error in answer to a question about the token says: `refused`, or that the Hub is not well."""
    if status_of(error) in (401, 403):
        return f"{refused}; {LOG_IN}"
    return f"{constants.ENDPOINT} does not answer as it should: {first_line(error)}; push later"


def may_create(token, owner):
    """Whether a token, as whoami describes it, is for creating repositories of `owner`."""
    if token.get("role") != "fineGrained":
        return token.get("role") != "read"
    scopes = [scope["permissions"] for scope in token["fineGrained"]["scoped"] if scope["entity"]["name"] == owner]
    return any("repo.write" in permissions for permissions in scopes)


def status_of(error):
    """The HTTP status in an answer that became this error; None if no answer came."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


def push(folder, repo_id, private):
    """Make the files of `folder` one commit to the model `repo_id`, which is created if need be; returns its address.

    What else the repository holds stays. A lost connection and a Hub that is busy or broken for a while are tried
    again; a commit whose answer was lost is found done then. Raises RunError when it fails for good.
    """
    constants.HF_HUB_OFFLINE = False  # it was not set when the token was checked; connect may have set it since
    for wait in (*WAITS, None):
        try:
            with time_limit(ANSWER_SECONDS):
                huggingface_hub.create_repo(repo_id, private=private or None, exist_ok=True)
                files = [CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())]
                made = huggingface_hub.create_commit(repo_id, files, commit_message="Add the model and its scores")
            return made.commit_url
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            reason = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of an upload
            status = status_of(reason)
            lost = status is None and isinstance(reason, (HTTPError, RuntimeError))
            if wait is None or not (lost or status in (408, 429) or (status or 0) >= 500):
                raise RunError(
                    f"not pushed to {repo_id}: {first_line(reason)}; nothing is lost here; push again: "
                    f"python {shlex.join(sys.argv)}"
                ) from error
            print(f"{constants.ENDPOINT}: {first_line(reason)}; trying again in {wait} s", file=sys.stderr)
            time.sleep(wait)
