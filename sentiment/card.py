"""The model card: README.md of a run folder and of a model on the Hub, a pure function of run.json and metrics.json."""

import shlex
from pathlib import PurePath

from huggingface_hub import EvalResult, ModelCardData

from sentiment.metrics import FIGURES, difference_in_words, interval_in_words, limits_in_words

WIDGET = ("A gripping, funny film.", "Two hours I will never get back.", "Not as bad as they say, but far too long.")
IMDB = ("stanfordnlp/imdb", "imdb")
IMDB_CITATION = """@inproceedings{maas-etal-2011-learning,
  title = {Learning Word Vectors for Sentiment Analysis},
  author = {Maas, Andrew L. and Daly, Raymond E. and Pham, Peter T. and Huang, Dan and Ng, Andrew Y. and
            Potts, Christopher},
  booktitle = {Proceedings of the 49th Annual Meeting of the Association for Computational Linguistics:
               Human Language Technologies},
  year = {2011},
  pages = {142--150},
  url = {https://aclanthology.org/P11-1015}
}"""


def public(word):
    """A word of a command line without the folders of a path that tells of its owner's machine.

    >>> public("../reviews.csv"), public("--output_dir=~/x"), public("sample/model")
    ('reviews.csv', '--output_dir=x', 'sample/model')
    """
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path = PurePath(value)
    private = path.is_absolute() or ".." in path.parts or value.startswith("~")
    return flag + equals + (path.name if private else value)


def model_card(run, scores):
    """README.md as text. run: run.json, {} for a model that train.py did not make; scores: metrics.json."""
    parts = [description(run, scores), usage(run, scores), figures(scores)]
    parts += [training(run, scores)] if run else []
    parts += [limits(run, scores)]
    if scores["dataset"] in IMDB:
        parts += [f"## Citation\n\nThe reviews:\n\n```bibtex\n{IMDB_CITATION}\n```"]
    return f"---\n{metadata(run, scores).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def metadata(run, scores):
    """The card's head, as the Hub reads it; the scores as a model-index."""
    commits = run.get("commits", {})
    base = run["settings"]["model_name_or_path"] if commits.get("model") else None
    apache = base in ("distilbert/distilbert-base-uncased", "distilbert-base-uncased")
    of = {"task_type": "text-classification", "dataset_type": scores["dataset"], "dataset_split": scores["split"]}
    of |= {"dataset_name": PurePath(scores["dataset"]).name, "dataset_revision": scores["dataset_commit"]}
    metrics = [name for name in FIGURES[:5] if scores[name] is not None]
    imdb = scores["dataset"] in IMDB
    return ModelCardData(
        model_name=name_of(run, scores),
        eval_results=[EvalResult(metric_type=name, metric_value=scores[name], **of) for name in metrics],
        base_model=base,
        datasets=[run["settings"]["dataset_name"]] if commits.get("dataset") else None,
        language="en" if imdb else None,
        library_name="transformers",
        license="apache-2.0" if apache else "other",
        license_name=None if apache else "that-of-the-base-model",
        metrics=metrics,
        pipeline_tag="text-classification",
        tags=["sentiment-analysis"],
        widget=[{"text": text} for text in WIDGET],
        citation=IMDB_CITATION if imdb else None,
    )


def name_of(run, scores):
    """What the card calls the model: its name on the Hub, else its folder's."""
    return PurePath(scores.get("hub_model_id") or (run["settings"]["output_dir"] if run else "model")).name


def description(run, scores):
    text = f"# {name_of(run, scores)}\n\nTells texts apart as {' or '.join(scores['labels'])}."
    if not run:
        return text
    settings, trained = run["settings"], len(run["reviews"]["train"]["rows"])
    return (
        f"{text} Fine-tuned from {linked('', settings['model_name_or_path'], run['commits']['model'])} on {trained:,} "
        f"reviews of {linked('datasets/', settings['dataset_name'], run['commits']['dataset'])}."
    )


def linked(kind, name, commit):
    """The name of a model ("") or of a data set ("datasets/"), with a link if it came from the Hub."""
    return f"[{name}](https://huggingface.co/{kind}{name}) (commit {commit[:12]})" if commit else f"`{public(name)}`"


def usage(run, scores):
    where = scores.get("hub_model_id") or (public(run["settings"]["output_dir"]) if run else "FOLDER")
    return f"""## How to use it

```python
from transformers import pipeline
classify = pipeline("text-classification", model="{where}", truncation=True)
print(classify("A gripping, funny film."))
```

or, with the scripts that made it, `echo "A gripping, funny film." | python predict.py --model_name_or_path {where}`."""


def figures(scores):
    lines = [f"## Scores\n\nOn {scores['reviews']:,} reviews of {scores['dataset']}, split {scores['split']}:", ""]
    lines += ["| metric | value | 95% interval |", "| --- | --- | --- |"]
    lines += [f"| {m} | {scores[m]:.4f} | {interval_in_words(scores, m)} |" for m in FIGURES if scores[m] is not None]
    if compared := scores.get("baselines"):
        lines += ["", "| baseline, trained on the same reviews | accuracy | f1 | the model's accuracy is better by |"]
        lines += ["| --- | --- | --- | --- |"]
    for name, row in (compared or {}).items():
        lines += [f"| {name} | {row['accuracy']:.4f} | {row['f1']:.4f} | {difference_in_words(row)} |"]
    lines += ["", f"{limits_in_words(scores)}."]
    for file, caption in scores.get("pictures", {}).items():
        lines += ["", f"![{caption}]({file})"]
    return "\n".join(lines)


def training(run, scores):
    launch = "python" if run["processes"] == 1 else f"accelerate launch --multi_gpu --num_processes {run['processes']}"
    commands = [f"{launch} {shlex.join(map(public, run['command']))}"]
    if scores["command"] != [public(word) for word in run["command"]]:
        commands += [f"python {shlex.join(scores['command'])}"]
    commands = "\n".join(f"    {command}" for command in commands)
    settings = "\n".join(f"| {name} | {public(str(value))} |" for name, value in run["settings"].items())
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"""## How it was made

{commands}

{run["seconds"]:,.0f} s of training on {run["device"]}; processes {run["processes"]}, threads {run["threads"]},
precision {run["precision"]}; {versions}; git commit {run["git_commit"] or "unknown"}.

| setting | value |
| --- | --- |
{settings}"""


def limits(run, scores):
    cut = f"Of a text of more than {run['settings']['max_length']} tokens the end is read. " if run else ""
    return f"""## Limits

{cut}The scores hold for texts like those in {scores["dataset"]}; on others it was not tried. A probability is off by
{100 * scores["calibration_error"]:.1f} points on average (the calibration error). What the reviews and the base model
are biased about, this model is too."""
