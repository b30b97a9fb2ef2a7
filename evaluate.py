"""Score a fine-tuned model on labelled reviews.

python evaluate.py                                            the test reviews that train.py drew
python evaluate.py --dataset_name my/reviews.csv              reviews of your own
python evaluate.py --model_name_or_path outputs/other --split validation --max_eval_samples 0
"""

from pathlib import Path

import torch
from accelerate import Accelerator

from sentiment import data, device, hub, inference, metrics, model, run_folder
from sentiment.cli import Parser, UserError, number, script


def parse_args(argv):
    parser = Parser(description="Score a fine-tuned model on labelled reviews.")
    add = parser.add_argument
    add("--model_name_or_path", default=model.DEFAULT_FOLDER, help="folder that train.py wrote, or Hub id")
    add("--dataset_name", help="Hub id, folder or file (default: what the model was trained on)")
    add("--split", default="test", help="of a Hub id or a folder; a file has only one")
    add("--text_column", help="column of the texts (default: as in training, else text)")
    add("--label_column", help="column of the labels (default: as in training, else label)")
    add("--max_eval_samples", type=number(int, 0), help="drawn stratified; 0: all (default: those train.py scored)")
    add("--output_dir", type=Path, help="for metrics.json (default: the model's folder, or outputs/evaluation)")
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
    if trained_on and args.split == "test" and args.max_eval_samples is None:
        return data.find_again(dataset, run["reviews"]["eval"], text_column, label_column), run["labels"], dataset
    one_file = Path(dataset).is_file()
    split = "train" if one_file else args.split
    reviews, names, _ = data.load_split(dataset, split, text_column, label_column)
    if reviews and one_file and trained_on and args.split != "train":  # never score by chance what was trained on
        seen = set(run["reviews"]["train"]["rows"])
        reviews = reviews.at([i for i, row in enumerate(reviews.rows) if row not in seen])
    if not reviews:
        raise UserError(f"--split {split}: {dataset} has no such split, or no review with a text and a label in it")
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
        if all(label in ids for label in labels):
            return [ids[label] for label in labels]
    unknown = sorted({label for label in labels if label not in by_name_in_any_case})
    raise UserError(f"labels {', '.join(unknown[:5])}: the model knows {len(classes)} classes, {', '.join(classes)}")


@script
def main(argv=None):
    args = parse_args(argv)
    folder = Path(args.model_name_or_path)
    output_dir = args.output_dir or (folder if folder.is_dir() else Path("outputs/evaluation"))
    run_folder.refuse_unwritable(output_dir)
    device.use_all_cores()
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")  # see precision below
    tokenizer, classifier = model.load_trained(args.model_name_or_path)
    classes = model.class_names(classifier)

    run = run_folder.read_json(folder / "run.json") or {}
    reviews, names, dataset = load_reviews(args, run)
    labels = class_ids(reviews.labels, names, classes)
    encoded, cut = data.encode(tokenizer, reviews.texts)
    precision = run.get("precision")  # train.py's, so that its numbers come out again
    if precision not in device.precisions():
        precision = device.pick_precision()
    classifier.to(accelerator.device)
    logits = inference.shared_logits(accelerator, classifier, encoded, tokenizer.pad_token_id, precision)
    scores = {**metrics.score(logits, labels, classes), "dataset": dataset, "split": args.split}

    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        run_folder.write_results(output_dir, run, scores)
    accelerator.print(f"{args.model_name_or_path} on {dataset}, split {args.split}, in {precision}, {cut:,} cut")
    accelerator.print(metrics.table(scores))
    accelerator.print(f"written to {output_dir / 'metrics.json'}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
