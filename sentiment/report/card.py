"""The model card: card.md.j2, filled in from run.json and metrics.json."""

import hashlib
import html
import re
import shlex
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sentiment import files
from sentiment.metrics import PUBLISHED
from sentiment.report.table import table
from sentiment.run import command

TEMPLATE = Path(__file__).with_name("card.md.j2")
LICENCE = re.compile(r"^license\w*:.*\n", re.MULTILINE)  # lines of a card's metadata
APACHE = ("distilbert/distilbert-base-uncased", "distilbert-base-uncased")


def public(word):
    """An argument without private folders: ../data.csv becomes data.csv."""
    flag, value = re.fullmatch(r"(--.*?=|)(.*)", word, re.DOTALL).groups()
    path = Path(value)
    private = path.is_absolute() or ".." in path.parts or value.startswith("~")
    return flag + (path.name if private else value)


def text(value):
    """A name that others chose, on one line and without Markdown or HTML."""
    line = html.escape(str(value), quote=False).replace("\n", " ")
    return re.sub(r"[\\|\[\]*_`~]", r"\\\g<0>", line)


def origin(dataset, commit, split, matching="by name"):
    """Where the numbers in metrics.json come from, without private paths."""
    where = {"dataset": public(dataset), "dataset_commit": commit, "split": split}
    return {**where, "label_matching": matching, "command": list(map(public, command()))}


def write_results(folder, run, scores):
    files.write_json(folder / "metrics.json", scores)
    files.write_text(folder / "README.md", model_card(run, scores))


def model_card(run, scores):
    """The card as text. run: None for a pushed model that train.py did not make."""
    where = scores.get("hub_model_id") or public(run.settings["output_dir"])
    name = Path(where).name
    commands = [map(public, run.command), scores["command"]] if run else []
    card = ModelCard.from_template(
        metadata(name, run, scores),
        TEMPLATE,
        name=name,
        run=run,
        scores=scores,
        where=where,
        commands=dict.fromkeys(map(shlex.join, commands)),
        public=public,
        quote=shlex.quote,
        table=table,
        text=text,
    )
    above = f"{card}\n\n".encode(errors="backslashreplace").decode()  # as files.write_text
    return above + signature(above)


def signature(above):
    """The last line of a card: it tells whether more than the licence was changed."""
    digest = hashlib.sha256(LICENCE.sub("", above).encode()).hexdigest()
    return f"<!-- Generated; SHA-256 {digest} -->\n"


def merge(old, new, overwrite=False):
    """`new` with the licence of `old`, README.md's text; None to keep old if it is not a card as
    generated. overwrite: take the place of any.
    """
    if old is None or overwrite:
        return new
    above, *_ = old.rpartition("<!--")
    if old != above + signature(above):
        return None
    start, kept = LICENCE.search(new).start(), "".join(LICENCE.findall(above))
    without = LICENCE.sub("", new)
    return without[:start] + kept + without[start:]


def metadata(name, run, scores):
    commits = run.commits if run else {}
    base = commits.get("model") and run.settings["model_name_or_path"]
    metrics = [metric for metric in PUBLISHED if scores[metric] is not None]
    task, dataset = "text-classification", scores["dataset"]
    of = task, dataset, Path(dataset).name
    at = {"dataset_split": scores["split"], "dataset_revision": scores["dataset_commit"]}
    return ModelCardData(
        model_name=name,
        eval_results=[EvalResult(*of, metric, scores[metric], **at) for metric in metrics],
        base_model=base,
        datasets=commits.get("dataset") and [run.settings["dataset_name"]],
        language="en" if dataset in ("stanfordnlp/imdb", "imdb") else None,
        library_name="transformers",
        license="apache-2.0" if base in APACHE else "other",
        license_name=None if base in APACHE else "that-of-the-base-model",
        metrics=metrics,
        pipeline_tag=task,
        tags=["sentiment-analysis"],
    )
