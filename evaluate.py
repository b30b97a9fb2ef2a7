"""Score a fine-tuned model on labelled reviews.

python evaluate.py                                            the test reviews that train.py drew
python evaluate.py --dataset_name my/reviews.csv              reviews of your own
python evaluate.py --model_name_or_path outputs/other --split validation --max_eval_samples 0
python evaluate.py --baseline --plots --hub_model_id USER/REPO  and push the model with what was measured
"""

import csv
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from sentiment import baselines, data, device, hub, inference, metrics, model, processes, run_folder
from sentiment.cli import Parser, UserError, number, script


def parse_args(argv):
    parser = Parser(description="Score a fine-tuned model on labelled reviews.")
    add = parser.add_argument
    add("--model_name_or_path", default=model.DEFAULT_FOLDER, help="folder that train.py wrote, or Hub id")
    add("--dataset_name", help="Hub id, folder or file (default: what the model was trained on)")
    add("--split", default="test", help="train, validation or test; a file is all train")
    add("--text_column", help="column of the texts (default: as in training; text for other data)")
    add("--label_column", help="column of the labels (default: as in training; label for other data)")
    add("--max_eval_samples", type=number(int, 0), help="drawn stratified; 0: all (default: those train.py scored)")
    add("--output_dir", type=Path, help="for metrics.json (default: the model's folder, or outputs/evaluation)")
    add("--baseline", action="store_true", help="compare with majority class and TF-IDF regression, trained alike")
    add("--predictions", action="store_true", help="write predictions.csv, most wrong first: label errors are there")
    add("--plots", action="store_true", help="draw confusion matrix, curves, reliability and training (matplotlib)")
    add("--hub_model_id", metavar="USER/REPO", help="push the model, its scores and a card to this model on the Hub")
    add("--private", action="store_true", help="of a new repository on the Hub: only its owners see it")
    return parser.parse_args(argv)


def load_reviews(args, run):
    """(reviews to score, the classes of their data set, its name) by the flags and by run.json."""
    settings = run.get("settings", {})
    dataset = args.dataset_name or settings.get("dataset_name")
    if dataset is None:
        raise UserError(f"--dataset_name: needed, since {args.model_name_or_path} has no run.json that names one")
    hub.connect(dataset)
    trained_on = settings if settings and Path(dataset).resolve() == Path(settings["dataset_name"]).resolve() else {}
    text_column = args.text_column or trained_on.get("text_column", "text")
    label_column = args.label_column or trained_on.get("label_column", "label")
    one_file = Path(dataset).is_file()
    split = "test" if one_file and args.split != "train" else args.split
    if trained_on and split == "test" and args.max_eval_samples is None:
        reviews = data.find_again(dataset, run["reviews"]["eval"], text_column, label_column)
        reviews.split = data.scored_split(reviews)
        return reviews, run["labels"], dataset
    held_out = trained_on and split == "test" and run["reviews"]["eval"]["split"] == "train"
    reviews, names, _ = data.load_split(dataset, "train" if one_file or held_out else split, text_column, label_column)
    if held_out:  # never score by chance what was trained on, under another number neither
        seen = set(load_training_reviews(args, run).texts)
        reviews = reviews.at([i for i, text in enumerate(reviews.texts) if text not in seen])
    if not reviews:
        raise UserError(f"--split {args.split}: {dataset} has no such split, or no review with text and label in it")
    reviews.split = data.HELD_OUT if held_out else args.split
    return data.draw(reviews, args.max_eval_samples, f"{settings.get('seed', 42)}/test"), names, dataset


def class_ids(labels, names, classes):
    """The model's class id of each label: by name, whatever its case; else the label is the id; else, for a model
    whose classes never got names (LABEL_0, ...), by the order of the data set's `names`. Raises UserError.
    """
    by_name = {name: i for i, name in enumerate(classes)}
    by_name_in_any_case = {
        label: i for label in set(labels) for name, i in by_name.items() if label.casefold() == name.casefold()
    }
    by_id = {str(i): i for i in range(len(classes))}
    unnamed = classes == [f"LABEL_{i}" for i in range(len(names))]
    by_order = {name: i for i, name in enumerate(names)} if unnamed else {}
    for ids in (by_name, by_name_in_any_case, by_id, by_order):
        # Numbers must fit as a whole: 1 to 5 stars are not the ids 0 to 4, even if nobody gave 5.
        if all(label in ids for label in [*labels, *(names if ids is by_id else [])]):
            return [ids[label] for label in labels]
    unknown = sorted({label for label in labels if label not in by_name_in_any_case})
    raise UserError(f"labels {', '.join(unknown[:5])}: the model knows {len(classes)} classes, {', '.join(classes)}")


def load_training_reviews(args, run):
    """The very reviews that the model was trained on. Raises UserError if they are unknown or have changed."""
    if not run:
        raise UserError(f"--baseline: {args.model_name_or_path} has no run.json that names the training reviews")
    settings = run["settings"]
    hub.connect(settings["dataset_name"])
    columns = settings["text_column"], settings["label_column"]
    return data.find_again(settings["dataset_name"], run["reviews"]["train"], *columns)


def write_predictions(path, reviews, labels, logits, classes):
    """predictions.csv: row, label, prediction, probability (of the prediction), loss, text; most wrong first."""
    log_probabilities = logits.double().log_softmax(dim=1)
    confidence, best = log_probabilities.exp().max(dim=1)
    losses = -log_probabilities[range(len(labels)), labels]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", "prediction", "probability", "loss", "text"])
        for i in losses.argsort(descending=True, stable=True).tolist():
            figures = f"{confidence[i]:.4f}", f"{losses[i]:.4f}"
            writer.writerow([reviews.rows[i], classes[labels[i]], classes[best[i]], *figures, reviews.texts[i]])


def push(args, run, scores, tokenizer, classifier, output_dir):
    """Push what was measured, as it is in memory, and nothing else; returns the address of the commit."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, tokenizer, classifier)
        run_folder.write_results(Path(folder), run, scores)
        for name in scores.get("pictures", {}):
            shutil.copy(output_dir / name, folder)
        return hub.push(Path(folder), args.hub_model_id, args.private)


@script
def main(argv=None):
    args = parse_args(argv)
    folder = Path(args.model_name_or_path)
    output_dir = args.output_dir or (folder if folder.is_dir() else Path("outputs/evaluation"))
    run_folder.refuse_unwritable(output_dir)
    if args.plots and not importlib.util.find_spec("matplotlib"):
        raise UserError("--plots: matplotlib is not installed; pip install matplotlib, or leave --plots out")
    if args.hub_model_id and os.environ.get("RANK", "0") == "0":
        hub.refuse_unwritable(args.hub_model_id, args.private)
    if args.private and not args.hub_model_id:
        raise UserError("--private: is about the repository that --hub_model_id names; give both or neither")
    device.keep_freed_memory()
    device.use_all_cores()
    accelerator = processes.start("no")  # see precision below
    with processes.main_first(accelerator):
        tokenizer, classifier = model.load_trained(args.model_name_or_path)
        run = run_folder.read_run(folder)  # now that its files have been looked at
        reviews, names, dataset = load_reviews(args, run)
        training = load_training_reviews(args, run) if args.baseline else None
    classes = model.class_names(classifier)
    labels = class_ids(reviews.labels, names, classes)
    encoded, cut = data.encode(tokenizer, reviews.texts)
    precision = run.get("precision")  # train.py's, so that its numbers come out again
    if precision not in device.precisions():
        precision = device.pick_precision()
    classifier.to(accelerator.device)
    logits = inference.shared_logits(accelerator, classifier, encoded, tokenizer.pad_token_id, precision)
    scores = {**metrics.score(logits, labels, classes), **run_folder.origin(dataset, reviews.split)}

    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        if training:
            known = training.texts, class_ids(training.labels, run["labels"], classes)
            scores["baselines"] = baselines.compare(*known, reviews.texts, labels, logits.argmax(dim=1), classes)
        if args.predictions:
            write_predictions(output_dir / "predictions.csv", reviews, labels, logits, classes)
        if args.plots:
            from sentiment import plots  # here, since matplotlib is optional

            scores["pictures"] = plots.draw(output_dir, scores, logits, labels, run_folder.read_log(folder))
        if args.hub_model_id:
            scores["hub_model_id"] = args.hub_model_id
        ours = (output_dir / "metrics.json").exists() or not (output_dir / "README.md").exists()
        if run and ours:
            run_folder.write_results(output_dir, run, scores)
        else:  # the README.md that lies there is somebody else's
            run_folder.write_json(output_dir / "metrics.json", scores)
        print(f"{args.model_name_or_path} on {dataset}, split {reviews.split}, in {precision}, {cut:,} cut")
        print(metrics.table(scores))
        print(f"written to {output_dir}")
        if args.hub_model_id:
            print(f"pushed to {push(args, run, scores, tokenizer, classifier, output_dir)}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
