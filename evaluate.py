"""Score a fine-tuned model on labelled reviews.

python evaluate.py                                  the test reviews that train.py scored
python evaluate.py --dataset_name my/reviews.csv    your own reviews
python evaluate.py --split validation --max_eval_samples 0
python evaluate.py --compare_to outputs/other       two models on the same reviews
python evaluate.py --baseline --plots --hub_model_id USER/REPO      also push the model
"""

from sentiment.runtime import before_torch  # noqa: F401

# isort: split
import csv
import importlib.util
import os
import re
import shlex
import shutil
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy
import torch
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

from sentiment import data, distributed, files, inference, intervals, metrics, model, tokens
from sentiment.columns import of_text
from sentiment.errors import UserError
from sentiment.fast import packing
from sentiment.hub import access, source, trial
from sentiment.hub.push import open_repository, push
from sentiment.labels import fold, names_of, some
from sentiment.report import card
from sentiment.report.table import table
from sentiment.run import Run
from sentiment.runtime import device, folder, launch
from sentiment.runtime.exits import script
from sentiment.runtime.flags import Parser, add_data_flags, number
from sentiment.runtime.log import read_log

KEPT = "; README.md there is not a card as generated, and stays (--overwrite_card replaces it)"
POLAR = (["negative", "positive"], ["negative", "neutral", "positive"])  # classes by id
WORDS = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
BASELINES = {
    "majority class": DummyClassifier(strategy="most_frequent"),
    "TF-IDF regression": make_pipeline(WORDS, LogisticRegression(C=10, max_iter=1000)),
}


def parse_args(argv):
    parser = Parser(description="Score a fine-tuned model on labelled reviews.")
    add = parser.add_argument
    help = "folder that train.py wrote, or Hub id (default: %(default)s)"
    add("--model_name_or_path", default=model.DEFAULT_FOLDER, help=help)
    help = "branch, tag or commit of the model on the Hub (default: %(default)s)"
    add("--revision", default="main", help=help)
    help = "Hub id, folder or file (default: the one the model was trained on)"
    add("--dataset_name", help=help)
    help = "train, validation or test, as train.py used them, or another; of a file, train or test"
    help += " (default: %(default)s)"
    add("--split", default="test", help=help)
    help = "stratified sample, 0 for all (default: what train.py scored; all of other data)"
    add("--max_eval_samples", type=number(int, 0), help=help)
    help = "folder for the results (default: the model's, or outputs/evaluation for a Hub id)"
    add("--output_dir", help=help)
    help = "also score the majority class and a TF-IDF logistic regression on the same reviews"
    add("--baseline", action="store_true", help=help)
    help = "folder or Hub id of another model to score on the same reviews"
    add("--compare_to", metavar="MODEL", help=help)
    help = "write predictions.csv, highest loss first: look for label errors at the top"
    add("--predictions", action="store_true", help=help)
    help = "plot confusion matrix, ROC, precision-recall, calibration, loss (needs matplotlib)"
    add("--plots", action="store_true", help=help)
    help = "push the model, its scores and a model card to the Hub"
    add("--hub_model_id", type=as_id, metavar="USER/REPO", help=help)
    help = "create the repository as private"
    add("--private", action="store_true", help=help)
    help = "replace a README.md that the scripts did not write, and its licence"
    add("--overwrite_card", action="store_true", help=help)
    add_data_flags(parser, data.FLAGS, trained=True)
    return parser.parse_args(argv)


def as_id(address):
    """USER/REPO of a model's address on the Hub, or the text as it is."""
    return re.sub(r"^https?://(huggingface\.co|hf\.co)/", "", address).rstrip("/")


def find_data(run):
    """The path of the data that train.py read, which may be gone, or its Hub id."""
    name = run.settings["dataset_name"]
    here, there = Path(name), Path(run.directory, name)
    moved = here.exists() and not there.exists()
    if run.commits["dataset"] or moved or here.resolve() == there.resolve():
        return name
    return str(there)


def resolve_data(args, run):
    """Decide which data to score. Returns (settings, differ). Raises UserError.

    settings: data.DEFAULTS and dataset_name; differ: names of those that are not as in training,
    or None if the model was trained on another data set.
    """
    settings, dataset = run.settings if run else {}, args.dataset_name
    if not dataset:
        if not run:
            reason = f"{args.model_name_or_path} has no run.json that names one"
            raise UserError(f"--dataset_name is required: {reason}")
        dataset = find_data(run)
        if not (run.commits["dataset"] or Path(dataset).exists()):
            raise UserError(f"{dataset}: the data of training is gone; give --dataset_name")
    access.connect(dataset)
    given = {name: getattr(args, name) for name in data.DEFAULTS if getattr(args, name) is not None}
    same = run and Path(dataset).resolve() == Path(find_data(run)).resolve()
    trained = data.DEFAULTS | (settings if same else {"label_map": settings.get("label_map", {})})
    differ = [name for name in given if given[name] != trained[name]] if same else None
    return Namespace(**trained | given | {"dataset_name": dataset}), differ


def choose_split(args, run, now, differ):
    """Returns (its name, the part of run.json that was drawn from it, or None). Raises UserError.

    Without a test split, "test" is what training held out of "train". A file is all "train".
    """
    one_file = Path(now.dataset_name).is_file()
    if one_file and args.split not in ("train", "test"):
        way = "choose test (what training held out, or all) or train"
        raise UserError(f"--split {args.split}: {now.dataset_name} is one file; {way}")
    part = {"test": "eval", "validation": "validation"}.get(args.split)
    if differ == [] and part in run.reviews:
        return run.reviews[part]["split"], part
    if not one_file:  # three splits have a flag
        return getattr(now, f"{args.split}_split_name", args.split), None
    if differ and args.split == "test":
        flags = ", ".join(f"--{name}" for name in differ)
        raise UserError(f"{flags}: not as in training, so what it held out is not known; drop it")
    return now.train_split_name, None


def load_reviews(args, run, now, differ):
    """Returns (reviews to score, class names of the data set, whether the run has scores of them
    which these may replace). Raises UserError. now, differ: by `resolve_data`.
    """
    dataset, (split, part) = now.dataset_name, choose_split(args, run, now, differ)
    held_out = part and split == now.train_split_name
    way = f"{'--split train' if held_out else '--max_eval_samples 0'} scores it as it is now"
    if part and args.max_eval_samples is None:
        reviews = find_again(run, part, dataset, way)
        reviews.split = data.HELD_OUT if held_out else split
        return reviews, run.labels, part == "eval"
    columns = follow_columns(args, run, now, split) if run and differ is None else []
    reviews, names, notes = data.load_split(now, split, () if differ is None else run.labels)
    notes = columns + notes
    if notes and os.environ.get("RANK", "0") == "0":
        print(*notes, sep="\n")
    if held_out:  # never score a text that was trained on or chose an epoch, even at another row
        for other in run.reviews.keys() - {"eval"}:
            reviews = reviews.without(find_again(run, other, dataset, way))
    known = run.labels if run else ()
    if not reviews or (set(reviews.labels) == {"-1"} and "-1" not in known):  # -1: no label
        reason = f"{dataset} has no such split, or no review with a text and a label"
        raise UserError(f"--split {args.split}: {reason}; {source.describe(now)}")
    named = args.split if Path(dataset).is_file() else split
    reviews.split = data.HELD_OUT if held_out else named
    seed = run.settings["seed"] if run else 42
    sample = reviews.sample(args.max_eval_samples, f"{seed}/{args.split if part else 'test'}")
    return sample, names, part == "eval" and not what_changed(run, part, dataset)[1]


def follow_columns(args, run, now, split):
    """Without flags, read other data from the columns of training, each if it is there. Returns
    lines that say so.
    """
    found, notes = source.read(now, split), []
    there = found[0].column_names if found else []
    text, label = run.settings["text_column"], run.settings["label_column"]
    for flag, column, needed in (
        ("text_column", text, of_text(text, there)),
        ("label_column", label, [label]),
    ):
        if getattr(args, flag) is None and column != getattr(now, flag) and {*needed} <= {*there}:
            setattr(now, flag, column)
            notes += [f"--{flag} {column}, as in training"]
    return notes


def find_again(run, part, dataset, way):
    """A part of the reviews of run.json. Raises UserError, with advice, if they have changed."""
    reviews, changed = what_changed(run, part, dataset)
    if changed:
        raise UserError(f"{dataset}: {changed}; {way}")
    return reviews


def what_changed(run, part, dataset):
    """(A part of the reviews of run.json, what has changed in them since training or "").

    dataset: the path of the data set now, or its Hub id.
    """
    settings = Namespace(**data.DEFAULTS | run.settings | {"dataset_name": dataset})
    identity = run.reviews[part]
    rows = identity["rows"]
    if rows == data.BY_SETTINGS:
        tested = run.reviews["eval"]["split"] == settings.test_split_name
        if tested and "validation" not in run.reviews:  # older versions did not read it
            settings.validation_split_name = data.NO_SPLIT
        reviews = data.load_train_and_test(settings, "validation" in run.reviews)[0][part]
    else:
        reviews, _, _ = data.load_split(settings, identity["split"], run.labels)
        if reviews and rows != "all":
            reviews = reviews.at(numpy.isin(reviews.rows, rows))
    if reviews and reviews.sha256 == identity["sha256"]:
        return reviews, ""
    were, found = identity.get("reviews", 0), len(reviews or ())
    counts = f"{were:,}, now {found:,}" if were != found else "other texts or labels"
    named = f"the {identity['split']} reviews that run.json names"
    return None, f"{named} have changed since training ({counts})"


def load_training_reviews(args, run):
    """The reviews that the model was trained on. Raises UserError if they have changed."""
    if not run:
        reason = f"{args.model_name_or_path} has no run.json that names the training reviews"
        raise UserError(f"--baseline: {reason}")
    access.connect(dataset := find_data(run))
    return find_again(run, "train", dataset, "drop --baseline")


def match(labels, names, mapped, classes):
    """How labels are a model's `classes`: (in words, {label: class id}). Raises UserError.

    names: the data set's classes by id; mapped: by --label_map, so only names count. Else the first
    rule that fits counts. Ids and order do only where they mean one thing: 0 is negative, 1
    positive; and LABEL_0 is 0.
    """
    found = set(labels)
    unnamed = classes == [f"LABEL_{i}" for i in range(len(classes))]
    ids = {str(i): i for i in range(len(classes))}
    numbers = set(names) == ids.keys() and not mapped
    folded = {fold(name): i for i, name in enumerate(classes)}
    rules = {
        "by name": {name: i for i, name in enumerate(classes)},
        "by name in any case": {x: folded[fold(x)] for x in {*found, *names} if fold(x) in folded},
        "by id": ids if numbers and (unnamed or list(folded) in POLAR) else {},
        "by order": {name: i for i, name in enumerate(names)} if unnamed and names in POLAR else {},
    }
    # If the data set also has a "0", its "1" to "3" are ids, not the classes "1" to "3".
    needed = found | {name for name in names if name.isdecimal()}
    both = needed <= rules["by name"].keys() & ids.keys() and not mapped
    if both and any(rules["by name"][name] != ids[name] for name in needed):
        way = ",".join(f"{name}={name}" for name in sorted(needed))
        reason = f"labels {some(sorted(needed))} may be names of classes, or ids of others"
        raise UserError(f"{reason}; give --label_map {way} if they are names")
    for rule, known in rules.items():
        if needed <= known.keys():
            pairs = [f"{label} = {classes[known[label]]}" for label in sorted(found)]
            return rule if "name" in rule else f"{rule}, {some(pairs, 10)}", known
    unknown = some(sorted(needed - rules["by name in any case"].keys()))
    example = ",".join(f"{name}={of}" for name, of in zip(names, classes, strict=False))
    alike = (numbers or unnamed) and len(names) == len(classes) and example.count("=") < 11
    way = f"{shlex.quote(example)} if that is meant" if alike else "LABEL=CLASS,..."
    reason = f"labels {unknown} are not among the model's {len(classes)} classes, {some(classes)}"
    raise UserError(f"{reason}; give --label_map {way}")


class Model:
    """A fine-tuned model and its answers to the reviews."""

    def __init__(self, name, revision="main"):
        self.name = name
        self.tokenizer, self.classifier = trial.load_trained(name, revision)
        self.classes = names_of(self.classifier)

    def match(self, *given):
        try:
            self.matching, self.ids = match(*given, self.classes)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error

    def answer(self, accelerator, reviews, precision):
        self.encoded = tokens.encode_reviews(self.tokenizer, reviews, self.ids)
        packing.install(device.place(self.classifier, accelerator.device), precision)
        given = accelerator, self.classifier, self.encoded.ids, precision
        self.logits = inference.shared_logits(*given)
        self.labels = self.encoded.labels

    def predictions(self, other):
        """int64 [N]: the predicted classes as ids of another model, -1 where that has no such."""
        labels = {i: label for label, i in self.ids.items()}
        by_name = {fold(name): i for i, name in enumerate(other.classes)}
        ids = [
            other.ids.get(labels.get(i), by_name.get(fold(name), -1))
            for i, name in enumerate(self.classes)
        ]
        return torch.tensor(ids)[self.logits.argmax(dim=1)]


def write_predictions(path, reviews, scored):
    """Write predictions.csv, highest loss first, for a spreadsheet: with a byte order mark, and an
    apostrophe before what would be a formula.
    """
    log_probabilities = scored.logits.double().log_softmax(dim=1)
    confidence, best = log_probabilities.exp().max(dim=1)
    losses = -log_probabilities[range(len(reviews)), scored.labels]
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", "prediction", "probability", "loss", "text"])
        for i in losses.argsort(descending=True, stable=True).tolist():
            words = scored.classes[scored.labels[i]], scored.classes[best[i]], reviews[i]
            label, prediction, text = (re.sub(r"^(?=[=+\-@\t\r])", "'", word) for word in words)
            figures = f"{confidence[i]:.4f}", f"{losses[i]:.4f}"
            writer.writerow([reviews.rows[i], label, prediction, *figures, text])


def write(output_dir, run, scores, overwrite):
    """Write metrics.json and, of a run, the card. Returns whether another README.md stays there."""
    files.write_json(output_dir / "metrics.json", scores)
    path = output_dir / "README.md"
    before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
    new = run and card.merge(before, card.model_card(run, scores), overwrite)
    if new:
        files.write_text(path, new)
    return bool(run and not new)


def check(args):
    """Returns the output folder. Raises UserError for flags that cannot work."""
    model_folder = Path(args.model_name_or_path)
    default = model_folder if model_folder.is_dir() else Path("outputs/evaluation")
    output_dir = Path(args.output_dir or default)
    folder.check_writable(output_dir)
    if args.plots and not importlib.util.find_spec("matplotlib"):
        way = "pip install matplotlib, or leave --plots out"
        raise UserError(f"--plots: matplotlib is not installed; {way}")
    if args.private and not args.hub_model_id:
        raise UserError("--private needs --hub_model_id")
    if args.hub_model_id is not None and os.environ.get("RANK", "0") == "0":
        open_repository(args.hub_model_id, args.private)
    return output_dir


def choose_folder(args, output_dir, own, dataset):
    """Where the scores go: a run's folder keeps those of its `own` split. Raises UserError."""
    of_model = output_dir.resolve() == Path(args.model_name_or_path).resolve()
    if (own and of_model) or not (output_dir / "run.json").exists():
        return output_dir
    if args.output_dir:
        raise UserError(f"--output_dir {output_dir}: keeps its own run's scores; choose another")
    named = f"{dataset}-{args.dataset_config_name or ''}"
    name = re.sub(r"[^\w.]+", "-", named).strip("-.")[-100:]
    return output_dir / "evaluations" / name / args.split


def publish(args, run, scores, scored, output_dir, card_stays):
    """Push the scored model, from memory, with its card and plots only."""
    with tempfile.TemporaryDirectory() as staged:
        model.save(staged, scored.tokenizer, scored.classifier)
        card.write_results(Path(staged), run, scores)
        mine = [] if card_stays or not run else ["README.md"]  # with the licence there
        for name in [*scores.get("pictures", {}), *mine]:
            shutil.copy(output_dir / name, staged)
        merge = partial(card.merge, overwrite=args.overwrite_card)
        url, replaced, kept = push(Path(staged), args.hub_model_id, merge)
    print(f"pushed to {url}{KEPT if kept else ''}")
    if replaced:
        print(f"replaced there: {', '.join(replaced)}")


def compute(models, run, reviews, training):
    """The first model's scores, beside those of baselines and of the other model, if any."""
    first, *others = models
    scores = metrics.score(first.logits, first.labels, first.classes)
    scores |= {"kept_epoch": run.kept_epoch} if run else {}
    if training:
        _, ids = match(training.labels, run.labels, True, first.classes)
        learned = training, [ids[label] for label in training.labels]
        scores["baselines"] = {}
        for name, baseline in BASELINES.items():
            guesses = baseline.fit(*learned).predict(reviews)
            scores["baselines"][name] = compare(first, torch.as_tensor(guesses))
    for other in others:
        found = compare(first, other.predictions(first))
        found["reviews_trained_on"] = count_seen(other, reviews)
        scores["compared_to"] = {card.public(other.name): found}
    return scores


def compare(model, predictions):
    """Scores of other predictions [N], ids of the model's classes or -1, for metrics.json.

    f1: averaged by the same rule as the model's; difference: the model's accuracy minus theirs;
    disagreements: in so many reviews.
    """
    n, labels, ours = len(model.labels), model.labels, model.logits.argmax(dim=1)
    right, other_right = ours == labels, predictions == labels
    seen = metrics.averaged(model.classes, labels, predictions)
    only, only_other = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    return {
        "accuracy": int(other_right.sum()) / n,
        "f1": f1_score(labels, predictions, labels=seen, average="macro", zero_division=0),
        "difference": (only - only_other) / n,
        "difference_interval": intervals.paired_difference(only, only_other, n),
        "disagreements": int((predictions != ours).sum()),
    }


def count_seen(model, reviews):
    """How many of the reviews a model was trained on, or None if that is not known."""
    try:
        if not (run := Run.read(Path(model.name))):
            return None
        access.connect(dataset := find_data(run))
        return len(reviews) - len(reviews.without(find_again(run, "train", dataset, "")))
    except UserError:  # its data may be gone
        return None


def report(args, run, model, reviews, scores, output_dir, about, own):
    """Print and write what has been asked for. Returns whether another README.md stays there."""
    output_dir.mkdir(parents=True, exist_ok=True)
    stale = (output_dir / "metrics.json").exists()
    kept = write(output_dir, run, scores, args.overwrite_card)  # first: what follows may fail
    print(f"{args.model_name_or_path} on {about}\n{table(scores)}")
    for name, other in scores.get("compared_to", {}).items():
        seen = other["reviews_trained_on"]
        print(f"{name} was trained on {'an unknown number' if seen is None else seen} of them")
    local = run and not run.commits["dataset"]  # else the count might need a download
    if local and not own and (seen := count_seen(model, reviews)):
        print(f"{model.name} was trained on {seen} of them")
    for name in ("predictions.csv", *folder.PICTURES) if stale else ():
        files.remove(output_dir / name)
    if args.predictions:
        write_predictions(output_dir / "predictions.csv", reviews, model)
    if args.plots:
        from sentiment.report.plots import draw  # matplotlib is optional

        log = read_log(Path(args.model_name_or_path))
        scores["pictures"] = draw(output_dir, scores, model.logits, model.labels, log)
        write(output_dir, run, scores, args.overwrite_card)
    print(f"written to {output_dir}{KEPT if kept else ''}")
    return kept


@script
def main(argv=None):
    args = parse_args(argv)

    # --- Check and load.
    output_dir = check(args)
    accelerator = launch.start("no")  # the precision follows below
    with distributed.main_process_first(accelerator):
        models = [Model(args.model_name_or_path, args.revision)]
        models += [Model(args.compare_to)] if args.compare_to else []
        run = Run.read(Path(args.model_name_or_path))  # its files are checked by now
        now, differ = resolve_data(args, run)
        reviews, names, own = load_reviews(args, run, now, differ)
        training = load_training_reviews(args, run) if args.baseline else None
    dataset = now.dataset_name if differ is None else run.settings["dataset_name"]
    output_dir = choose_folder(args, output_dir, own, dataset)
    for each in models:
        each.match(reviews.labels, names, bool(now.label_map))

    # --- Score, in train.py's precision, to reproduce its numbers.
    known = run and run.precision in device.precisions()
    precision = run.precision if known else device.pick_precision()
    for each in models:
        each.answer(accelerator, reviews, precision)
    accelerator.end_training()  # the main process does the rest alone
    if not accelerator.is_main_process:
        return

    # --- Report.
    first, *_ = models
    if now.label_map and not own:
        pairs = [f"{label}={name}" for label, name in now.label_map.items()]
        first.matching += f", after --label_map {some(pairs, 10)}"
    scores = compute(models, run, reviews, training)
    scores |= card.origin(dataset, reviews.commit, reviews.split, first.matching)
    if args.hub_model_id:
        scores["hub_model_id"] = args.hub_model_id
    about = f"{dataset}, split {reviews.split}, labels {first.matching}"
    about += f", precision {precision}, {first.encoded.ids.truncated:,} truncated"
    kept = report(args, run, first, reviews, scores, output_dir, about, own)
    if args.hub_model_id:
        publish(args, run, scores, first, output_dir, kept)


if __name__ == "__main__":
    main()
