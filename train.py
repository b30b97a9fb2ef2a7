"""Fine-tune an encoder for text sentiment, with a hand-written loop on Accelerate.

    accelerate launch --config_file accelerate_config.yaml train.py

Top to bottom: settings, schedule and optimizer, the loop, and `main`, which ties them together.
"""

from sentiment.runtime import before_torch  # noqa: F401

# isort: split
import math
import shlex
import time
from argparse import Namespace
from functools import partial

import torch

from sentiment import batches, checkpoint, data, distributed, inference, metrics, model, tokens
from sentiment.errors import Stopped
from sentiment.fast import packing
from sentiment.fast.gradients import Gradients
from sentiment.fast.graphs import Graphs
from sentiment.fast.readback import Readback
from sentiment.hub import access, source, trial
from sentiment.report import card
from sentiment.run import Run
from sentiment.runtime import device, folder, launch, watch
from sentiment.runtime.exits import script, stop_flag
from sentiment.runtime.flags import Parser, add_data_flags, number
from sentiment.runtime.log import TrainingLog, read_log

LOGGED = 2000  # of "eval": scored after an epoch if there is no validation split


def parse_args(argv):
    parser = Parser(description="Fine-tune an encoder for text sentiment.")
    natural, count, rate = number(int, 0), number(int, 1), number(float, 0, 0.9)
    above_0, share = number(float, 0, above=True), number(float, 0, 1)

    add = parser.group("model and data")
    base, imdb = "distilbert/distilbert-base-uncased", "stanfordnlp/imdb"
    add("--model_name_or_path", str, base, "Hub id or folder")
    add("--revision", str, "main", "branch, tag or commit of the model on the Hub")
    add("--dataset_name", str, imdb, "Hub id, one file, or a folder with train and test")
    sample = "stratified sample, 0 for all (default: {} of " + imdb + ", all of other data)"
    add("--max_train_samples", natural, None, sample.format("1,000"))
    add("--max_eval_samples", natural, None, sample.format(100))
    length = "tokens per review (default: 512, or the model's limit if lower)"
    add("--max_length", number(int, trial.SHORTEST), None, length)

    add = parser.group("run folder")
    add("--output_dir", str, model.DEFAULT_FOLDER, "folder for everything the run writes")
    add("--checkpointing_steps", count, None, "steps per checkpoint (default: one epoch)")
    either = parser.add_mutually_exclusive_group().add_argument
    either("--overwrite_output_dir", action="store_true", help="replace the run in --output_dir")
    either("--resume", action="store_true", help="continue from the newest checkpoint, if any")

    add = parser.group("training")
    add("--train_batch_size", count, 16, "reviews per step, over all processes")
    most = "tokens in a pass, halved when out of memory (default: by memory; 4096 on a CPU)"
    add("--max_tokens_per_device", count, None, most)
    add("--learning_rate", above_0, 5e-5, "peak, reached after warm-up")
    add("--weight_decay", number(float, 0), 0.01, "not on biases and norms")
    add("--warmup_ratio", share, 0.1, "share of steps to warm up")
    add("--num_train_epochs", count, 5, "passes over the training reviews")
    add("--attention_dropout", rate, None, "probability (default: the model's)")
    add("--label_smoothing_factor", rate, 0.1, "epsilon; not for probabilities below 1")
    add("--class_weight", ["none", "balanced"], "none", "balanced: rare classes count more")
    add("--max_grad_norm", number(float, 0), 1.0, "gradient clipping, 0 for none")
    choices = ["auto", "no", "bf16", "fp16"]
    add("--mixed_precision", choices, "auto", "auto: best for the hardware")
    add("--seed", number(int, 0, 2**32 - 1), 42, "for samples, head, data order and dropout")
    add("--ddp_timeout", above_0, 600, "give up after so many seconds without progress")
    add("--report_to", launch.TRACKERS, "none", "a tracker that also gets the log")
    best = "keep the best epoch, not the last"
    parser.add_argument("--load_best_model_at_end", action="store_true", help=best)
    score = "on the validation split: lowest loss, highest accuracy or f1"
    add("--metric_for_best_model", ["loss", "accuracy", "f1"], "loss", score)
    add("--early_stopping_patience", count, None, "stop after so many epochs without a better one")
    add_data_flags(parser, data.FLAGS)
    args = parser.parse_args(argv)
    for name, default in (("max_train_samples", 1000), ("max_eval_samples", 100)):
        if getattr(args, name) is None:
            setattr(args, name, default if args.dataset_name == imdb else 0)
    return args


def learning_rate(step, last_step, peak, warmup_ratio):
    """The rate of step 1 <= `step` <= `last_step`: linear up to `peak`, then linear down; never 0.

    The warm-up takes ceil(warmup_ratio * last_step) steps.
    """
    warmup = math.ceil(warmup_ratio * last_step)
    if step <= warmup:
        return peak * step / warmup
    return peak * (last_step - step + 1) / (last_step - warmup)


def make_optimizer(parameters, weight_decay):
    """AdamW; biases and norms, the parameters with one dimension, do not decay."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=True)  # the loop sets the learning rate


def train(run, step, accelerator, classifier, sets, log, stop):
    """The training loop, from `step` completed steps to the last. Returns the last scores.
    If any rank has a signal in `stop`, all save a checkpoint and raise Stopped.
    """
    settings, parameters = Namespace(**run.settings), list(classifier.parameters())
    score = partial(evaluate, run, accelerator, classifier, sets, log, stop)
    optimizer = accelerator.prepare(make_optimizer(parameters, settings.weight_decay))
    gradients, readback = Gradients(accelerator, parameters), Readback(accelerator, log)
    state = accelerator, classifier, optimizer
    compute = Graphs(partial(backward, accelerator, classifier, settings.label_smoothing_factor))
    train_set = sets["train"]
    of_class = train_set.class_weights(settings.class_weight, len(run.labels))
    max_tokens, run.history = checkpoint.load(run, step, *state)
    try:
        while True:
            at_end = step > 0 and step % run.steps_per_epoch == 0
            if at_end and end_epoch(run, step, score, max_tokens, state):
                return score("eval", max_tokens, kept_epoch=run.kept_epoch)

            # The step alone decides the batch and the learning rate: a run can resume anywhere.
            started = time.perf_counter()
            epoch, position = divmod(step, run.steps_per_epoch)
            epoch, step = epoch + 1, step + 1
            order = len(train_set.ids), settings.seed, epoch
            batch = batches.global_batch(position, settings.train_batch_size, *order)
            lr = learning_rate(step, run.last_step, settings.learning_rate, settings.warmup_ratio)
            for group in optimizer.param_groups:
                group["lr"] = lr

            # Each rank's sum, then one all-reduce: the exact mean over the global batch.
            weights = of_class / of_class[train_set.labels[batch]].sum()
            seed = batches.dropout_seed(settings.seed, step, accelerator.process_index)
            given = gradients, classifier, compute, train_set, batch, weights, seed, max_tokens
            max_tokens = accumulate_gradients(*given)
            figures = gradients.reduce(stop, settings.max_grad_norm)
            # If a figure is not finite, AdamW skips the step. In fp16 the scaler decides.
            optimizer.optimizer.found_inf = (~figures.sum().isfinite()).float()
            optimizer.step()

            entry = {"step": step, "epoch": epoch, "loss": None, "learning_rate": lr}
            entry["tokens"] = int(train_set.ids.lengths[batch].sum())
            readback.send(figures, entry, started, train_set.rows[batch])
            saves = step % settings.checkpointing_steps == 0
            if readback.read(everything=saves or step % run.steps_per_epoch == 0):
                raise Stopped(stop)
            if saves:
                checkpoint.save(run, step, max_tokens, *state)
    except Stopped:  # after a step, or in an evaluation: `step` is complete either way
        checkpoint.save(run, step, max_tokens, *state)
        raise


def end_epoch(run, step, score, max_tokens, state):
    """Score an epoch, again after a resume. Returns whether training is over; the model then has
    the weights to keep.
    """
    settings, epoch = Namespace(**run.settings), step // run.steps_per_epoch
    over, validates = step == run.last_step, "validation" in run.reviews
    if over and not validates:
        return True
    scores = score("validation", max_tokens)
    if validates:
        run.history = [*run.history[: epoch - 1], scores[settings.metric_for_best_model]]
    over = over or epoch - run.best_epoch >= (settings.early_stopping_patience or math.inf)
    # Save now: the best epoch's weights may be loaded below, and scoring "eval" rescales them.
    if settings.load_best_model_at_end or over:
        checkpoint.save(run, step, max_tokens, *state)
    if settings.load_best_model_at_end and over and run.best_epoch < epoch:
        checkpoint.load(run, run.best_epoch * run.steps_per_epoch, *state)
    return over


def evaluate(run, accelerator, classifier, sets, log, stop, part, max_tokens, **more):
    """Log and return the scores of a part of the data. Raises Stopped.

    Calibrates the model on a validation split before "eval", which comes last.
    """

    def logits(part):
        given = accelerator, classifier, sets[part].ids, run.precision, max_tokens, stop
        return inference.shared_logits(*given)

    if part == "eval" and "validation" in run.reviews:
        labels = sets["validation"].labels
        more["temperature"] = temperature = metrics.temperature(logits("validation"), labels)
        *_, last = (each for each in classifier.modules() if isinstance(each, torch.nn.Linear))
        for parameter in last.parameters():  # of the layer whose outputs are the logits
            parameter.data /= temperature
    scores = metrics.score(logits(part), sets[part].labels, run.labels) | more
    split = sets[part].split
    scores["split"] = data.HELD_OUT if split == run.settings["train_split_name"] else split
    log.evaluation(scores)
    return scores


def accumulate_gradients(
    gradients, classifier, compute, train_set, batch, weights, seed, max_tokens
):
    """Compute this rank's share of the gradients and the loss. Returns the token budget.

    weights: [C], of each class; those of the batch's reviews sum to 1.
    """
    accelerator, lengths = gradients.accelerator, train_set.ids.lengths
    mine = batches.share(batch, lengths, accelerator.process_index, accelerator.num_processes)
    if not classifier.training:
        classifier.train()
    while True:
        gradients.clear()
        torch.manual_seed(seed)
        if accelerator.scaler:  # scale() sets it up, for an empty share as well
            accelerator.scaler.scale(gradients.sums)
        try:
            given = train_set.ids, mine, max_tokens, partial(train_set.targets, weights)
            for _, inputs, targets in inference.passes(classifier, *given):
                gradients.sums[0].add_(compute(inputs, targets))
            return max_tokens
        except RuntimeError as error:  # out of memory, for example: retry the step
            compute.clear()
            max_tokens = inference.recover(error, max_tokens, max(lengths[i] for i in mine))


def backward(accelerator, classifier, smoothing, inputs, targets):
    """Add the gradients of one micro-batch. Returns its part of the loss."""
    with accelerator.autocast():
        logits = classifier(**inputs).logits.float()
    # Label smoothing (Szegedy et al. 2016), of certain labels only. Targets of 0 stay 0.
    certain = targets.amax(dim=1, keepdim=True) == targets.sum(dim=1, keepdim=True)
    targets = targets.lerp(targets.mean(dim=1, keepdim=True), smoothing * certain)
    # A sum of targets that sum to 1 over the global batch: exact for a short last batch, uneven
    # shares and any micro-batches.
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    accelerator.backward(loss)
    return loss.detach()


def describe(args, accelerator, precision, tokenizer, classifier, reviews, labels, origin):
    """Settings with defaults filled in, data, model and machine, for run.json."""
    args.max_length = tokenizer.model_max_length
    args.max_tokens_per_device = args.max_tokens_per_device or inference.token_budget(classifier)
    identities = {part: each.identity() for part, each in reviews.items()}
    commit, digest = origin
    commits = {"model": commit, "dataset": reviews["train"].commit}
    hardware = device.describe(), accelerator.num_processes, torch.get_num_threads(), precision
    run = Run(vars(args), labels, identities, commits, digest, *hardware)
    run.settings["checkpointing_steps"] = args.checkpointing_steps or run.steps_per_epoch
    return run


@script
def main(argv=None):
    args = parse_args(argv)

    # --- Check. Most mistakes end the run here, before a download.
    output_dir = folder.check(args)
    access.connect(args.model_name_or_path, args.dataset_name)
    precision = device.pick_precision(args.mixed_precision)
    accelerator = launch.start(precision, args.report_to, output_dir / "trackers")

    # --- Load. The main process goes first: it may download; the others then read the cache.
    with distributed.main_process_first(accelerator):
        selects = args.load_best_model_at_end or args.early_stopping_patience
        reviews, labels, report = data.load_train_and_test(args, selects)
        given = args, labels, list(reviews["train"].columns)
        tokenizer, classifier, *origin = trial.load_for_training(*given)
    packing.install(device.place(classifier, accelerator.device), precision)

    run = describe(args, accelerator, precision, tokenizer, classifier, reviews, labels, origin)
    accelerator.print(f"reviews   {args.dataset_name}", *report, sep="\n          ")
    hardware = f"{run.device}, processes {run.processes}, threads {run.threads}"
    accelerator.print(f"hardware  {hardware}, precision {precision}")

    with stop_flag() as stop, folder.open_run(run, accelerator) as step:
        if step == folder.FINISHED:
            return accelerator.end_training()
        # --- Tokenize and train. The last references to texts go: their file is unmapped.
        source.from_hub.cache_clear()
        reviews.setdefault("validation", reviews["eval"].sample(LOGGED, args.seed))
        ids = {name: i for i, name in enumerate(labels)}
        encode = partial(tokens.encode_reviews, tokenizer, ids=ids, stop=stop)
        sets = {part: encode(reviews.pop(part)) for part in list(reviews)}
        truncated = sets["train"].ids.truncated
        accelerator.print(f"tokens    {truncated:,} training reviews are truncated")
        log = TrainingLog(accelerator, run, step)
        with watch.progress(accelerator, run, log):
            scores = train(run, step, accelerator, classifier, sets, log, stop)
        # --- Save.
        if accelerator.is_main_process:
            model.save(output_dir, tokenizer, classifier)
            run.seconds = sum(entry.get("seconds", 0) for entry in read_log(output_dir))
            run.write(output_dir)
            scores |= card.origin(args.dataset_name, run.commits["dataset"], scores["split"])
            card.write_results(output_dir, run, scores)
    accelerator.end_training()
    name = shlex.quote(args.output_dir)
    accelerator.print(f"next: python evaluate.py --model_name_or_path {name}")


if __name__ == "__main__":
    main()
