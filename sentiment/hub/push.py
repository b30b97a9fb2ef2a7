"""Publishing a model: a repository and one commit."""

import shlex
import sys
import time

import huggingface_hub
from huggingface_hub import CommitOperationAdd, constants, get_session, is_offline_mode
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import build_hf_headers

from sentiment.errors import RunError, UserError, first_line
from sentiment.hub.access import LOG_IN, with_timeout

OPEN_SECONDS = 20  # for three requests
ANSWER_SECONDS = 60  # for each of a push
WAITS = (1, 2, 4, 8, 16, 32)  # seconds between attempts


def open_repository(repo_id, private):
    """Create a model if needed. UserError: not writable, or not `private` as asked."""
    silent = f"{constants.ENDPOINT} does not answer; push later"
    [reason] = with_timeout(lambda: refusal(repo_id, private), OPEN_SECONDS) or [silent]
    if reason:
        raise UserError(f"--hub_model_id {repo_id}: {reason}")


def refusal(repo_id, private):
    """Why the repository, created if needed, cannot be pushed to; or None."""
    if is_offline_mode():
        return "HF_HUB_OFFLINE is set; unset it to push"
    if repo_id.count("/") != 1:
        return "not a Hub id; give USER/REPO"
    if not huggingface_hub.get_token():
        return f"no token; {LOG_IN}"
    try:
        huggingface_hub.create_repo(repo_id, private=private or None, exist_ok=True)
        huggingface_hub.auth_check(repo_id, write=True)
        if private and not huggingface_hub.model_info(repo_id).private:
            return "it is public; make it private in its settings, or drop --private"
    except HFValidationError as error:
        return first_line(error)
    except (HTTPError, ValueError) as error:  # ValueError: the answer is not the Hub's
        if status_of(error) in (401, 403):
            return f"the token is invalid or may not write there; {LOG_IN}"
        return f"{constants.ENDPOINT} does not answer properly: {first_line(error)}; push later"
    return None


def status_of(error):
    return getattr(getattr(error, "response", None), "status_code", 0)


def push(folder, repo_id, merge):
    """Push files as one commit; retries a lost or busy Hub, then RunError. Returns (its URL, names
    of replaced files, whether README.md was kept).

    merge: called with README.md there, or None, and here; returns the one to push, or None.
    """
    constants.HF_HUB_OFFLINE = False  # `connect` may have set it since the repository was opened
    get_session().timeout = ANSWER_SECONDS
    for wait in (*WAITS, None):
        try:
            return commit(folder, repo_id, merge)
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            # An upload wraps its error in a RuntimeError.
            reason = (type(error) is RuntimeError and error.__cause__) or error
            status = status_of(reason)  # 0: the connection is lost
            temporary = status in (0, 408, 429) or status >= 500
            if not (wait and temporary and isinstance(reason, HTTPError | RuntimeError)):
                again = f"nothing is lost; push again: python {shlex.join(sys.argv)}"
                raise RunError(f"not pushed to {repo_id}: {first_line(reason)}; {again}") from error
            print(f"{constants.ENDPOINT}: {first_line(reason)}; retry in {wait} s", file=sys.stderr)
            time.sleep(wait)


def commit(folder, repo_id, merge):
    files = {path.name: path for path in sorted(folder.iterdir())}
    head, card = huggingface_hub.model_info(repo_id), None
    there = {file.rfilename for file in head.siblings}
    if "README.md" in there:
        url = f"{constants.ENDPOINT}/{repo_id}/resolve/{head.sha}/README.md"
        card = get_session().get(url, headers=build_hf_headers()).raise_for_status().text
    card = merge(card, files.pop("README.md").read_text(encoding="utf-8"))
    files |= {"README.md": card.encode()} if card else {}
    changes = [CommitOperationAdd(name, content) for name, content in files.items()]
    title, at = "Add the model and its scores", head.sha  # fails after another commit
    done = huggingface_hub.create_commit(repo_id, changes, commit_message=title, parent_commit=at)
    return done.commit_url, sorted(there & files.keys()), card is None
