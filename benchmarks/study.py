"""Which recipe is the most accurate? Train variants with several seeds, score them, compare them
paired by seed.

    python benchmarks/study.py plain learning_rate=1e-4 learning_rate=1e-4+tail --seeds 1 2 3 4 5 \\
        --model FOLDER --train TRAIN.csv --scored VALIDATION.csv --results results.jsonl
    python benchmarks/study.py --results results.jsonl --compare plain

A variant is `plain` (learning rate 5e-5, 3 epochs, no label smoothing, the first tokens of a long
review), or changes to it, joined by +. A change is a flag of train.py, or one of these: tail (the
last tokens of a long review), no_breaks (HTML line breaks read as spaces), reinit=N (reset the last
N layers, Zhang et al. 2021), layer_decay=F (learning rate per layer, ditto), average=F (average the
weights over the last fraction F of the steps), short_first (short reviews first, in the first
epoch), soft=N (also train on the first N lines of --soft, texts that predict.py --jsonl
--output_format jsonl has labelled). train.py's default is
num_train_epochs=5+no_breaks+tail+label_smoothing_factor=0.1. Each run appends a line of JSON to
--results; runs that are already there are skipped. Results: study.md and study.jsonl.
"""

import argparse
import csv
import itertools
import json
import math
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import scipy.stats
import torch
from joblib import cpu_count
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import train
from sentiment import batches, data, inference, metrics, model, tokens
from sentiment.fast import packing
from sentiment.fast.gradients import Gradients
from sentiment.fast.graphs import Graphs
from sentiment.runtime import device, launch

JOBS = 2  # runs at once
PLAIN = ["--learning_rate", "5e-5", "--num_train_epochs", "3", "--label_smoothing_factor", "0"]
TRICKS = ("tail", "no_breaks", "reinit", "layer_decay", "average", "short_first", "soft")


def parse(variant):
    """ "learning_rate=1e-4+tail" -> flags of train.py, {"tail": 1.0}."""
    settings = dict(part.partition("=")[::2] for part in variant.split("+") if part != "plain")
    tricks = {name: float(settings.pop(name) or 1) for name in TRICKS if name in settings}
    return PLAIN + [
        word for name, value in settings.items() for word in (f"--{name}", value)
    ], tricks


def reinitialise(classifier, blocks):
    """Reset the last `blocks` layers of the encoder to random weights."""
    for name, module in classifier.named_modules():
        number = re.search(r"\.layer\.(\d+)\.", name)
        if number and int(number[1]) >= classifier.config.num_hidden_layers - blocks:
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=classifier.config.initializer_range)
                torch.nn.init.zeros_(module.bias)
            elif isinstance(module, torch.nn.LayerNorm):
                module.reset_parameters()


def decay_by_layer(optimizer, classifier, factor):
    """Multiply each layer's learning rate by `factor` for each layer above it. The head keeps its
    rate; the embeddings get the lowest.
    """
    top = classifier.config.num_hidden_layers + 1
    depths = {}
    for name, parameter in classifier.named_parameters():
        number = re.search(r"\.layer\.(\d+)\.", name)
        depths[parameter] = int(number[1]) + 1 if number else 0 if "embeddings" in name else top
    groups = []
    for group in optimizer.param_groups:
        for depth in range(top + 1):
            parameters = [p for p in group["params"] if depths[p] == depth]
            groups += (
                [{**group, "params": parameters, "scale": factor ** (top - depth)}]
                if parameters
                else []
            )
    optimizer.param_groups = groups

    def scale(optimizer, *_):
        for group in optimizer.param_groups:
            group["lr"] *= group["scale"]

    optimizer.register_step_pre_hook(scale)


def average_weights(optimizer, parameters, first):
    """The mean of the weights after step `first` and all later steps, in float64; updated as the
    optimizer steps.
    """
    means, steps = [torch.zeros_like(p, dtype=torch.float64) for p in parameters], 0

    def add(*_):
        nonlocal steps
        steps += 1
        if steps >= first:
            for mean, parameter in zip(means, parameters, strict=True):
                mean.lerp_(parameter.detach().double(), 1 / (steps - first + 1))

    optimizer.register_step_post_hook(add)
    return means


def load(args, tricks, labels):
    """(tokenizer, classifier) for the tricks; plain ones read the start of a review."""
    torch.manual_seed(args.seed)
    path = args.model_name_or_path
    config = AutoConfig.from_pretrained(path)
    model.configure(labels, ["text"], args.attention_dropout, config)
    tokenizer = AutoTokenizer.from_pretrained(path)
    pretrained = AutoModelForSequenceClassification.from_pretrained
    classifier, _ = pretrained(path, config=config, **model.LOADING)
    model.agree(tokenizer, classifier)
    model.truncate_at(args.max_length, tokenizer)
    if "no_breaks" in tricks:
        tokenizer = model.for_reviews(tokenizer)
    tokenizer.truncation_side = "left" if "tail" in tricks else "right"
    if "reinit" in tricks:
        reinitialise(classifier, tricks["reinit"])
    return tokenizer, classifier


def train_variant(args, tricks):
    """train.py's loop with the tricks, in one process. Returns (scores, tokens, seconds)."""
    precision = device.pick_precision(args.mixed_precision)
    accelerator = launch.start(precision)
    reviews, labels, _ = data.load_train_and_test(args)
    tokenizer, classifier = load(args, tricks, labels)
    train_set, test_set = (
        tokens.encode_reviews(tokenizer, each, {name: i for i, name in enumerate(labels)})
        for each in (reviews["train"], reviews["eval"])
    )
    packing.install(device.place(classifier, accelerator.device), precision)

    size, batch_size = len(train_set.ids), args.train_batch_size
    steps_per_epoch = math.ceil(size / batch_size)
    last_step, parameters = args.num_train_epochs * steps_per_epoch, list(classifier.parameters())
    optimizer, means = train.make_optimizer(parameters, args.weight_decay), []
    if "layer_decay" in tricks:
        decay_by_layer(optimizer, classifier, tricks["layer_decay"])
    if "average" in tricks:
        first = round(last_step * (1 - tricks["average"])) + 1
        means = average_weights(optimizer, parameters, first)
    optimizer, gradients = accelerator.prepare(optimizer), Gradients(accelerator, parameters)
    smoothing = args.label_smoothing_factor
    compute = Graphs(partial(train.backward, accelerator, classifier, smoothing))
    seen, started, max_tokens = 0, time.perf_counter(), inference.token_budget(classifier)
    for step in range(1, last_step + 1):
        epoch, position = divmod(step - 1, steps_per_epoch)
        if "short_first" in tricks and epoch == 0:  # the file is in that order
            start = position * batch_size
            batch = list(range(start, min(start + batch_size, size)))
        else:
            batch = batches.global_batch(position, batch_size, size, args.seed, epoch + 1)
        lr = train.learning_rate(step, last_step, args.learning_rate, args.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = lr
        weights = torch.ones(len(labels)) / len(batch)
        seed = batches.dropout_seed(args.seed, step, 0)
        given = gradients, classifier, compute, train_set, batch, weights, seed, max_tokens
        max_tokens = train.accumulate_gradients(*given)
        figures = gradients.reduce((), args.max_grad_norm)
        optimizer.step()
        seen += int(train_set.ids.lengths[batch].sum())
    figures.tolist()  # waits for a GPU
    seconds = time.perf_counter() - started
    with torch.no_grad():
        for parameter, mean in zip(parameters, means, strict=False):
            parameter.copy_(mean)
    logits = inference.logits(classifier, test_set.ids, precision, max_tokens=max_tokens)
    return metrics.score(logits, test_set.labels, labels), seen, seconds


def count_of(variant):
    return int(parse(variant)[1].get("soft", 0))


def write_reviews(folder, args, count):
    """The data set that train.py reads, with `count` lines of --soft: shorter reviews first, an
    order that short_first alone makes use of.
    """
    folder.mkdir()
    for split, source in (("train", args.train), ("test", args.scored)):
        with open(source, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if split == "train" and count:
            with open(args.soft, encoding="utf-8") as file:
                found = map(json.loads, itertools.islice(file, count))
                rows += [{"text": row["text"], "label": row["probabilities"]} for row in found]
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for row in sorted(rows, key=lambda row: len(row["text"])):
                file.write(json.dumps({"text": row["text"], "label": row["label"]}) + "\n")


def run(job):
    """One run, in its own process. Returns its line for --results."""
    folder, model, variant, seed = job
    argv, tricks = parse(variant)
    folder = f"{folder}/{count_of(variant)}"
    threads = max(1, min(cpu_count(), device.quota()) // JOBS)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # set_up would take all cores
    torch.set_num_threads(threads)
    device.set_up(device.pick_device())
    given = ["--model_name_or_path", model, "--dataset_name", folder, "--seed", seed]
    given += ["--max_train_samples", 0, "--max_eval_samples", 0, *argv]
    scores, seen, seconds = train_variant(train.parse_args(list(map(str, given))), tricks)
    figures = {name: scores[name] for name in ("accuracy", "f1", "calibration_error")}
    return {"variant": variant, "seed": seed, **figures, "tokens": seen, "seconds": seconds}


def compare(results, reference):
    """A table: for each variant, and the seeds it shares with `reference`, the difference in points
    of accuracy.
    """
    accuracies = {}
    for row in results:
        accuracies.setdefault(row["variant"], {})[row["seed"]] = 100 * row["accuracy"]
    print(
        "| variant | seeds | accuracy | spread (sd) | worst | difference, paired by seed | 95% "
        "interval |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for variant, by_seed in accuracies.items():
        found = list(by_seed.values())
        figures = f"{len(found)} | {statistics.mean(found):.2f}"
        figures += f" | {statistics.stdev(found):.2f}" if len(found) > 1 else " | "
        shared = by_seed.keys() & accuracies.get(reference, {}).keys()
        gains = [by_seed[seed] - accuracies[reference][seed] for seed in shared]
        difference = interval = ""
        if variant != reference and len(gains) > 1:
            margin = (
                scipy.stats.t.ppf(0.975, len(gains) - 1)
                * statistics.stdev(gains)
                / math.sqrt(len(gains))
            )
            mean = statistics.mean(gains)
            difference, interval = f"{mean:+.2f}", f"{mean - margin:+.2f} to {mean + margin:+.2f}"
        print(f"| {variant} | {figures} | {min(found):.2f} | {difference} | {interval} |")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT")
    parser.add_argument("--model", help="folder of an encoder")
    parser.add_argument("--train", type=Path, help="CSV of text and label")
    parser.add_argument("--soft", type=Path, help="JSON lines of text and probabilities")
    parser.add_argument("--scored", type=Path, help="CSV of text and label, to choose by")
    parser.add_argument(
        "--results",
        type=Path,
        required=True,
        help="JSON lines, of one model and data set; new ones are added",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument(
        "--compare", metavar="VARIANT", help="print the table of --results against this variant"
    )
    args = parser.parse_args()
    if args.variants and not (args.model and args.train and args.scored):
        parser.error("variants need --model, --train and --scored")
    there = {(row["variant"], row["seed"]) for row in read(args.results)}
    wanted = [(variant, seed) for seed in args.seeds for variant in args.variants]
    wanted = [job for job in wanted if job not in there]
    counts = {count_of(variant) for variant, _ in wanted}
    if any(counts) and not args.soft:
        parser.error("soft=N needs --soft")
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            write_reviews(Path(folder, str(count)), args, count)
        jobs = [(folder, args.model, *job) for job in wanted]
        with multiprocessing.get_context("fork").Pool(JOBS, maxtasksperchild=1) as pool:
            for row in pool.imap_unordered(run, jobs):
                with open(args.results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(
                    f"{row['variant']} seed {row['seed']}: {row['accuracy']:.4f}",
                    file=sys.stderr,
                    flush=True,
                )
    if args.compare:
        compare(read(args.results), args.compare)


if __name__ == "__main__":
    main()
