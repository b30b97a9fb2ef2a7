"""Score a fine-tuned model on labelled reviews.

python evaluate.py                                  the test reviews that train.py scored
python evaluate.py --dataset_name my/reviews.csv    your own reviews
python evaluate.py --split validation --max_eval_samples 0
python evaluate.py --baseline --plots --hub_model_id USER/REPO      also push the model
"""

import csv
import importlib.util
import os
import shutil
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy

from sentiment import data, distributed, files, inference, metrics, model, tokens
from sentiment.errors import UserError
from sentiment.fast import packing
from sentiment.hub import access, source, trial
from sentiment.hub.push import open_repository, push
from sentiment.labels import fold, names_of, some
from sentiment.report import baselines, card
from sentiment.report.table import table
from sentiment.run import Run
from sentiment.runtime import device, folder, launch
from sentiment.runtime.exits import script
from sentiment.runtime.flags import Parser, add_data_flags, number
from sentiment.runtime.log import read_log


def parse_args(argv):
    parser = Parser(description="Score a fine-tuned model on labelled reviews.")
    add = parser.add_argument
    help = "folder that train.py wrote, or Hub id"
    add("--model_name_or_path", default=model.DEFAULT_FOLDER, help=help)
    add("--revision", default="main", help="branch, tag or commit of the model on the Hub")
    help = "Hub id, folder or file (default: the one the model was trained on)"
    add("--dataset_name", help=help)
    help = "train, validation or test, as train.py used them, or another; a file has only train"
    add("--split", default="test", help=help)
    help = "stratified sample, 0 for all (default: what train.py scored; all of other data)"
    add("--max_eval_samples", type=number(int, 0), help=help)
    help = "folder for the results (default: the model's, or outputs/evaluation for a Hub id)"
    add("--output_dir", type=Path, help=help)
    help = "also score the majority class and a TF-IDF logistic regression on the same reviews"
    add("--baseline", action="store_true", help=help)
    help = "write predictions.csv, highest loss first: look for label errors at the top"
    add("--predictions", action="store_true", help=help)
    help = "plot confusion matrix, ROC, precision-recall, calibration, loss (needs matplotlib)"
    add("--plots", action="store_true", help=help)
    help = "push the model, its scores and a model card to the Hub"
    add("--hub_model_id", metavar="USER/REPO", help=help)
    help = "create the repository as private"
    add("--private", action="store_true", help=help)
    add_data_flags(parser, data.FLAGS, trained=True)
    return parser.parse_args(argv)


def load_reviews(args, run):
    """Choose what to score. Returns (reviews, class names of the data set, its name).

    Without a test split, "test" is what training held out of "train". A file is all "train".
    """
    settings = run.settings if run else {}
    dataset = args.dataset_name or settings.get("dataset_name")
    if dataset is None:
        reason = f"{args.model_name_or_path} has no run.json that names one"
        raise UserError(f"--dataset_name is required: {reason}")
    access.connect(dataset)
    given = {name: getattr(args, name) for name in data.DEFAULTS if getattr(args, name) is not None}
    trained_config = settings.get("dataset_config_name")
    same = settings and Path(dataset).resolve() == Path(settings["dataset_name"]).resolve()
    same = same and given.get("dataset_config_name", trained_config) == trained_config
    trained_on = settings if same else {}
    named = {"label_map": settings.get("label_map", {}), "dataset_name": dataset}
    now = Namespace(**data.DEFAULTS | trained_on | named | given)
    one_file = Path(dataset).is_file()
    wanted = "test" if one_file and args.split != "train" else args.split
    part = "eval" if wanted == "test" else wanted
    as_trained = trained_on and part in run.reviews and part != "train"
    if as_trained and args.max_eval_samples is None:
        reviews = find_again(run, part, vars(now))
        reviews.split = data.scored_as(reviews.split, now)
        return reviews, run.labels, dataset
    split = getattr(now, f"{wanted}_split_name", wanted)  # of "train", "validation" or "test"
    split = run.reviews[part]["split"] if as_trained else split
    split = now.train_split_name if one_file else split
    held_out = as_trained and split == now.train_split_name
    reviews, names, _ = data.load_split(now, split, run.labels if trained_on else ())
    if held_out:  # never score a text that was trained on or chose an epoch, even at another row
        for other in run.reviews.keys() - {"eval"}:
            reviews = reviews.without(find_again(run, other, {}))
    if not reviews:
        reason = f"{dataset} has no such split, or no review with a text and a label"
        raise UserError(f"--split {args.split}: {reason}; {source.describe(now)}")
    reviews.split = data.HELD_OUT if held_out else args.split if one_file else split
    seed = f"{settings.get('seed', 42)}/{wanted if as_trained else 'test'}"
    return reviews.sample(args.max_eval_samples, seed), names, dataset


def find_again(run, name, now):
    """A part of the reviews of run.json. Raises UserError if the data set has changed.

    now: settings that differ, such as another path to the data set.
    """
    trained = data.DEFAULTS | run.settings
    identity, settings = run.reviews[name], Namespace(**trained | now)
    rows = identity["rows"]
    if rows == data.BY_SETTINGS:
        tested = run.reviews["eval"]["split"] == settings.test_split_name
        if tested and "validation" not in run.reviews:  # older versions did not read it
            settings.validation_split_name = data.NO_SPLIT
        reviews = data.load_train_and_test(settings, "validation" in run.reviews)[0][name]
    else:
        reviews, _, _ = data.load_split(settings, identity["split"], run.labels)
        if reviews and rows != "all":
            reviews = reviews.at(numpy.isin(reviews.rows, rows))
    if reviews and reviews.sha256 == identity["sha256"]:
        return reviews
    if other := [f"--{x}" for x in data.DEFAULTS if getattr(settings, x) != trained[x]]:
        raise UserError(f"{', '.join(other)}: not as in training, so other reviews; drop it")
    changed = f"the {identity['split']} reviews that run.json names have changed since training"
    train = identity["split"] == settings.train_split_name
    way = "drop --baseline, or use --split train" if train else "use --max_eval_samples"
    reason = f"{changed}; {way} to score the data set as it is now"
    raise UserError(f"{settings.dataset_name}: {reason}")


def load_training_reviews(args, run):
    """The reviews that the model was trained on. Raises UserError if they have changed."""
    if not run:
        reason = f"{args.model_name_or_path} has no run.json that names the training reviews"
        raise UserError(f"--baseline: {reason}")
    access.connect(run.settings["dataset_name"])
    return find_again(run, "train", {})


def class_ids(labels, names, classes):
    """{label: its id among a model's `classes`}. Raises UserError if no rule fits.

    The first rule that fits all labels counts: by name; by name in any case; the label is the id;
    and, for classes that never got names (LABEL_0, ...), by the order of the data set's `names`.
    """
    by_name = {name: i for i, name in enumerate(classes)}
    folded = {fold(name): i for name, i in by_name.items()}
    in_any_case = {x: folded[fold(x)] for x in set(labels) if fold(x) in folded}
    by_id = {str(i): i for i in range(len(classes))}
    unnamed = classes == [f"LABEL_{i}" for i in range(len(names))]
    by_order = {name: i for i, name in enumerate(names)} if unnamed else {}
    for ids in (by_name, in_any_case, by_id, by_order):
        # Ids must fit all classes: 1 to 5 stars are not the ids 0 to 4, even if nobody gave 5.
        if all(label in ids for label in [*labels, *(names if ids is by_id else [])]):
            return {label: ids[label] for label in set(labels)}
    unknown = some(sorted(set(labels) - in_any_case.keys()))
    known = f"{len(classes)} classes, {some(classes)}; --label_map gives labels other names"
    raise UserError(f"labels {unknown} are not among the model's {known}")


def write_predictions(path, reviews, labels, logits, classes):
    """Write predictions.csv, highest loss first."""
    log_probabilities = logits.double().log_softmax(dim=1)
    confidence, best = log_probabilities.exp().max(dim=1)
    losses = -log_probabilities[range(len(labels)), labels]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", "prediction", "probability", "loss", "text"])
        for i in losses.argsort(descending=True, stable=True).tolist():
            names = classes[labels[i]], classes[best[i]]
            figures = f"{confidence[i]:.4f}", f"{losses[i]:.4f}"
            writer.writerow([reviews.rows[i], *names, *figures, reviews[i]])


def write(folder, run, scores):
    """Write metrics.json and the card. run: None without one, or if README.md is not ours."""
    if run:
        card.write_results(folder, run, scores)
    else:
        files.write_json(folder / "metrics.json", scores)


def check(args):
    """Returns the output folder. Raises UserError for flags that cannot work."""
    model_folder = Path(args.model_name_or_path)
    default = model_folder if model_folder.is_dir() else Path("outputs/evaluation")
    output_dir = args.output_dir or default
    folder.check_writable(output_dir)
    if args.plots and not importlib.util.find_spec("matplotlib"):
        way = "pip install matplotlib, or leave --plots out"
        raise UserError(f"--plots: matplotlib is not installed; {way}")
    if args.private and not args.hub_model_id:
        raise UserError("--private needs --hub_model_id")
    if args.hub_model_id and os.environ.get("RANK", "0") == "0":
        open_repository(args.hub_model_id, args.private)
    return output_dir


def publish(args, run, scores, tokenizer, classifier, output_dir):
    """Push the scored model, from memory, with its card and plots only. Returns the URL."""
    with tempfile.TemporaryDirectory() as staged:
        model.save(staged, tokenizer, classifier)
        card.write_results(Path(staged), run, scores)
        for name in scores.get("pictures", {}):
            shutil.copy(output_dir / name, staged)
        return push(Path(staged), args.hub_model_id)


@script
def main(argv=None):
    args = parse_args(argv)

    # --- Check and load.
    output_dir, model_folder = check(args), Path(args.model_name_or_path)
    accelerator = launch.start("no")  # the precision follows below
    with distributed.main_process_first(accelerator):
        tokenizer, classifier = trial.load_trained(args.model_name_or_path, args.revision)
        run = Run.read(model_folder)  # its files are checked by now
        reviews, names, dataset = load_reviews(args, run)
        training = load_training_reviews(args, run) if args.baseline else None
    classes = names_of(classifier)
    encoded = tokens.encode_reviews(tokenizer, reviews, class_ids(reviews.labels, names, classes))

    # --- Score, in train.py's precision, to reproduce its numbers.
    known = run and run.precision in device.precisions()
    precision = run.precision if known else device.pick_precision()
    packing.install(device.place(classifier, accelerator.device), precision)
    logits = inference.shared_logits(accelerator, classifier, encoded.ids, precision)
    accelerator.end_training()  # the main process does the rest alone
    if not accelerator.is_main_process:
        return

    # --- Report.
    labels, kept = encoded.labels, {"kept_epoch": run.kept_epoch} if run else {}
    scores = metrics.score(logits, labels, classes)
    scores |= card.origin(dataset, reviews.commit, reviews.split) | kept
    output_dir.mkdir(parents=True, exist_ok=True)
    if training:
        ids = class_ids(training.labels, run.labels, classes)
        learned = training, list(map(ids.get, training.labels))
        given = reviews, labels, logits.argmax(dim=1), classes
        scores["baselines"] = baselines.compare(*learned, *given)
    if args.predictions:
        write_predictions(output_dir / "predictions.csv", reviews, labels, logits, classes)
    if args.hub_model_id:
        scores["hub_model_id"] = args.hub_model_id
    theirs = (output_dir / "README.md").exists() and not (output_dir / "metrics.json").exists()
    described = None if theirs else run
    write(output_dir, described, scores)  # before anything is drawn, which may fail
    if args.plots:
        from sentiment.report.plots import draw  # matplotlib is optional

        scores["pictures"] = draw(output_dir, scores, logits, labels, read_log(model_folder))
        write(output_dir, described, scores)
    truncated = f"{encoded.ids.truncated:,} truncated"
    scored = f"{dataset}, split {reviews.split}, precision {precision}, {truncated}"
    print(f"{args.model_name_or_path} on {scored}\n{table(scores)}\nwritten to {output_dir}")
    if args.hub_model_id:
        print(f"pushed to {publish(args, run, scores, tokenizer, classifier, output_dir)}")


if __name__ == "__main__":
    main()
