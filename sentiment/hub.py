"""The Hugging Face Hub: is it there, and the model card."""

import os
import re
import shlex
import threading
from pathlib import Path

from huggingface_hub import ModelCardData, constants, get_session, is_offline_mode

from sentiment.cli import UserError, first_line

PROBE_SECONDS = 4


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
    answers = []

    def ask():
        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS).status_code < 500)
        except Exception:  # by whatever name the HTTP client raises it: no answer is what we came to know
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)  # the look-up of an address knows no time limit of its own
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    return any(answers)


def unavailable(name, error, sample):
    """One line that says why `name` cannot be loaded and how to go on."""
    if not Path(name).exists() and is_offline_mode():
        return (
            f"{name}: not a folder here, not in the cache, and {constants.ENDPOINT} does not answer or HF_HUB_OFFLINE "
            f"is set; give a folder ({sample} needs no network), or load it once with a network to fill the cache"
        )
    return f"{name}: cannot be loaded: {first_line(error)}"


def model_card(run, scores):
    """README.md of a model on the Hub: a pure function of run.json and metrics.json."""
    settings = run["settings"]
    data = ModelCardData(
        base_model=settings["model_name_or_path"] if is_id(settings["model_name_or_path"]) else None,
        datasets=[settings["dataset_name"]] if is_id(settings["dataset_name"]) else None,
        library_name="transformers",
        license="apache-2.0",
        metrics=["accuracy", "f1"],
        pipeline_tag="text-classification",
    )
    names = ("accuracy", "f1", "precision", "recall", "roc_auc")
    figures = "\n".join(f"| {name} | {scores[name]:.4f} |" for name in names if scores[name] is not None)
    values = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    trained, scored = len(run["reviews"]["train"]["rows"]), scores["reviews"]
    return f"""---
{data.to_yaml()}
---

# {Path(settings["model_name_or_path"]).name}, fine-tuned on {Path(settings["dataset_name"]).name}

Tells {" from ".join(run["labels"])} texts. Fine-tuned from {settings["model_name_or_path"]} on {trained:,} reviews of
{settings["dataset_name"]}. Texts of more than {settings["max_length"]} tokens are cut.

## Scores

On {scored:,} reviews of {scores["dataset"]}, split {scores["split"]}:

| metric | value |
| --- | --- |
{figures}

## How it was trained

    {shlex.join(run["command"])}

On {run["device"]}; processes {run["processes"]}, threads {run["threads"]}, precision {run["precision"]}; {versions}.

| setting | value |
| --- | --- |
{values}
"""
