"""The model card: card.md.j2, filled in from run.json and metrics.json."""

import re
import shlex
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sentiment import files
from sentiment.metrics import PUBLISHED
from sentiment.report.table import table
from sentiment.run import command

TEMPLATE = Path(__file__).with_name("card.md.j2")
EXAMPLES = [{"text": "A gripping, funny film."}, {"text": "Two hours I will never get back."}]
APACHE = ("distilbert/distilbert-base-uncased", "distilbert-base-uncased")


def public(word):
    """An argument without private folders: ../data.csv becomes data.csv."""
    flag, value = re.fullmatch(r"(--.*?=|)(.*)", word, re.DOTALL).groups()
    path = Path(value)
    private = path.is_absolute() or ".." in path.parts or value.startswith("~")
    return flag + (path.name if private else value)


def text(value):
    """A name that others chose, on one line and without Markdown."""
    line = str(value).replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"[\\|[*`]", r"\\\g<0>", line)


def origin(dataset, commit, split):
    """Where the numbers in metrics.json come from, without private paths."""
    where = {"dataset": public(dataset), "dataset_commit": commit, "split": split}
    return {**where, "command": list(map(public, command()))}


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
        table=table,
        text=text,
    )
    return f"{card}\n"


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
        widget=EXAMPLES,
    )
