"""Fine-tune an encoder for text sentiment, with a hand-written loop on Accelerate.

    accelerate launch --config_file accelerate_config.yaml train.py
    python train.py --model_name_or_path sample/model --dataset_name sample/reviews

Top to bottom: settings, schedule and optimizer, the loop, and `main`, which ties them together.
"""

import math
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sentiment import batches, checkpoint, data, distributed, inference, metrics, model, tokens
from sentiment.errors import RunError, Stopped
from sentiment.fast import packing
from sentiment.fast.graphs import Graphs
from sentiment.hub import access, source, trial
from sentiment.report import card
from sentiment.run import Run
from sentiment.runtime import device, folder, launch
from sentiment.runtime.exits import script, stop_flag
from sentiment.runtime.flags import Parser, add_data_flags, number
from sentiment.runtime.log import TrainingLog, read_log

LOGGED = 2000  # after an epoch, at most so many test reviews are scored; at the end, all


def parse_args(argv):
    parser = Parser(description="Fine-tune an encoder for text sentiment.")
    natural, count, rate = number(int, 0), number(int, 1), number(float, 0, 0.9)

    add = parser.add_argument_group("model and data").add_argument
    base, imdb = "distilbert/distilbert-base-uncased", "stanfordnlp/imdb"
    add("--model_name_or_path", default=base, help="Hub id or folder")
    add("--revision", default="main", help="branch, tag or commit of the model on the Hub")
    add("--dataset_name", default=imdb, help="Hub id, one file, or a folder with train and test")
    sample = "stratified sample, 0 for all (default: {} of " + imdb + ", all of other data)"
    add("--max_train_samples", type=natural, help=sample.format("1,000"))
    add("--max_eval_samples", type=natural, help=sample.format(100))
    tokens = "tokens per review (default: 512, or the model's limit if lower)"
    add("--max_length", type=number(int, trial.SHORTEST), help=tokens)

    add = parser.add_argument_group("run folder").add_argument
    add("--output_dir", default=model.DEFAULT_FOLDER, help="folder for everything the run writes")
    either = parser.add_mutually_exclusive_group().add_argument
    either("--overwrite_output_dir", action="store_true", help="replace the run in --output_dir")
    either("--resume", action="store_true", help="continue from the newest checkpoint, if any")
    add("--checkpointing_steps", type=count, help="steps per checkpoint (default: one epoch)")

    add = parser.add_argument_group("training").add_argument
    add("--train_batch_size", type=count, default=16, help="reviews per step, over all processes")
    tokens = "most tokens in a forward pass, halved when out of memory (default: 4096 on a CPU)"
    add("--max_tokens_per_device", type=count, help=tokens)
    above_0 = number(float, 0, above=True)
    add("--learning_rate", type=above_0, default=5e-5, help="peak, reached after warm-up")
    add("--weight_decay", type=number(float, 0), default=0.01, help="not on biases and norms")
    share = number(float, 0, 1)
    add("--warmup_ratio", type=share, default=0.1, help="fraction of steps spent warming up")
    add("--num_train_epochs", type=count, default=5, help="passes over the training reviews")
    add(
        "--attention_dropout",
        type=rate,
        help="attention dropout probability (default: the model's)",
    )
    add("--label_smoothing_factor", type=rate, default=0.0, help="label smoothing epsilon")
    add("--max_grad_norm", type=number(float, 0), default=1.0, help="gradient clipping, 0 for none")
    choices = ["auto", "no", "bf16", "fp16"]
    add("--mixed_precision", choices=choices, default="auto", help="auto: best for the hardware")
    seeds = number(int, 0, 2**32 - 1)
    add("--seed", type=seeds, default=42, help="for samples, head, data order and dropout")
    add("--report_to", default="none", help="an Accelerate tracker, such as tensorboard")
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


def train(run, step, accelerator, classifier, train_set, evaluate, stop):
    """The training loop, from `step` completed steps to the last. Returns the last scores.
    If any rank has a signal in `stop`, all save a checkpoint and raise Stopped.
    """
    settings, parameters = Namespace(**run.settings), list(classifier.parameters())
    optimizer = accelerator.prepare(make_optimizer(parameters, settings.weight_decay))
    state = accelerator, classifier, optimizer
    compute = Graphs(partial(backward, accelerator, classifier, settings.label_smoothing_factor))
    work = settings, accelerator, classifier, compute, train_set
    steps_per_epoch = math.ceil(len(train_set.ids) / settings.train_batch_size)
    last_step = settings.num_train_epochs * steps_per_epoch
    log = TrainingLog(accelerator, run, step, last_step)
    max_tokens = checkpoint.load(run, step, *state)
    try:
        while True:
            # Once per epoch; not used for model selection. A resumed run repeats the last one.
            if step > 0 and step % steps_per_epoch == 0:
                scores = evaluate(max_tokens, step == last_step)
                log.evaluation(step, scores)
                if step == last_step:
                    return scores

            # The step alone decides the batch and the learning rate: a run can resume anywhere.
            started = time.perf_counter()
            epoch, position = divmod(step, steps_per_epoch)
            epoch, step = epoch + 1, step + 1
            given = len(train_set.ids), settings.seed, epoch
            batch = batches.global_batch(position, settings.train_batch_size, *given)
            lr = learning_rate(step, last_step, settings.learning_rate, settings.warmup_ratio)
            for group in optimizer.param_groups:
                group["lr"] = lr

            # Each rank's sum, then one all-reduce: the exact mean over the global batch.
            loss, max_tokens = accumulate_gradients(*work, batch, step, max_tokens)
            scalars = distributed.all_reduce_gradients(accelerator, parameters, loss, stop)
            norm = accelerator.clip_grad_norm_(parameters, settings.max_grad_norm or math.inf)
            optimizer.step()
            loss, stopping, norm = torch.stack([*scalars, norm]).tolist()  # waits for a GPU
            check_finite(loss, norm, accelerator.scaler, step, [train_set.rows[i] for i in batch])

            entry = {"step": step, "epoch": epoch, "loss": loss, "learning_rate": lr}
            entry["tokens"] = int(train_set.ids.lengths[batch].sum())
            log.step({**entry, "seconds": time.perf_counter() - started})
            if stopping:
                raise Stopped(stop)
            if step % settings.checkpointing_steps == 0:
                checkpoint.save(run, step, max_tokens, *state)
    except Stopped:  # after a step, or in an evaluation: `step` is complete either way
        checkpoint.save(run, step, max_tokens, *state)
        raise


def accumulate_gradients(
    settings, accelerator, classifier, compute, train_set, batch, step, max_tokens
):
    """Compute the gradients of this rank's share. Returns (its part of the loss, token budget)."""
    rank, lengths = accelerator.process_index, train_set.ids.lengths
    mine = batches.share(batch, lengths, rank, accelerator.num_processes)
    classifier.train()
    while True:
        # CUDA graphs write to fixed addresses; a CPU makes new gradients faster.
        classifier.zero_grad(set_to_none=accelerator.device.type == "cpu")
        torch.manual_seed(batches.dropout_seed(settings.seed, step, rank))
        loss = torch.zeros((), device=accelerator.device)
        if accelerator.scaler:  # set up lazily by scale(), which an empty share never calls
            accelerator.scaler.scale(loss)
        try:
            given = train_set.ids, mine, max_tokens, train_set.labels
            for _, inputs, targets in inference.passes(classifier, *given):
                loss += compute(inputs, targets, len(batch))
            return loss, max_tokens
        except RuntimeError as error:  # out of memory, for example: retry the step
            compute.clear()
            max_tokens = inference.recover(error, max_tokens, max(lengths[i] for i in mine))


def backward(accelerator, classifier, smoothing, inputs, targets, batch_size):
    """Add the gradients of one micro-batch. Returns its part of the loss."""
    with accelerator.autocast():
        logits = classifier(**inputs).logits.float()
    # Sum here, divide once by the size of the global batch: exact for a short last batch, uneven
    # shares and any micro-batches. Label smoothing: Szegedy et al. 2016.
    total = torch.nn.functional.cross_entropy(
        logits, targets, reduction="sum", label_smoothing=smoothing
    )
    loss = total / batch_size
    accelerator.backward(loss)
    return loss.detach()


def check_finite(loss, norm, scaler, step, rows):
    """Raise RunError, with the rows of the batch, if the loss or a gradient is not finite."""
    # fp16 gradient overflow is no failure: the scaler skips the step and lowers its scale.
    if not math.isfinite(loss) or not (scaler or math.isfinite(norm)):
        problem = f"step {step}: loss {loss}, gradient norm {norm}"
        rows = ", ".join(map(str, rows))
        raise RunError(f"{problem}, on rows {rows}; try a lower --learning_rate")


def load_model(args, labels, text_columns):
    """(tokenizer, classifier on the CPU, commit on the Hub or None, digest). Raises UserError."""
    torch.manual_seed(args.seed)  # for a new head: the same on every process
    with trial.loading(args.model_name_or_path, args.revision) as path:
        config = model.config_for_training(path, labels, args.attention_dropout)
        config.text_columns = list(text_columns)  # for predict.py
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer = model.for_reviews(tokenizer)
        classifier, report = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, **model.LOADING
        )
        trial.check(tokenizer, classifier, report, new_head=True)
    model.truncate_at(args.max_length, tokenizer)
    commit = None if Path(args.model_name_or_path).exists() else path.name  # the cache names it so
    return tokenizer, classifier, commit, model.fingerprint(tokenizer, classifier)


def describe(args, accelerator, precision, tokenizer, classifier, reviews, labels, origin):
    """Settings with defaults filled in, data, model and machine, for run.json."""
    steps_per_epoch = math.ceil(len(reviews["train"]) / args.train_batch_size)
    settings = vars(args) | {
        "max_length": tokenizer.model_max_length,
        "checkpointing_steps": args.checkpointing_steps or steps_per_epoch,
        "max_tokens_per_device": args.max_tokens_per_device or inference.token_budget(classifier),
    }
    identities = {name: each.identity() for name, each in reviews.items()}
    commit, digest = origin
    commits = {"model": commit, "dataset": reviews["train"].commit}
    hardware = device.describe(), accelerator.num_processes, torch.get_num_threads(), precision
    return Run(settings, labels, identities, commits, digest, *hardware)


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
        reviews, labels, report = data.load_train_and_test(args)
        tokenizer, classifier, *origin = load_model(args, labels, reviews["train"].columns)
    packing.install(device.place(classifier, accelerator.device), precision)

    run = describe(args, accelerator, precision, tokenizer, classifier, reviews, labels, origin)
    accelerator.print(f"reviews   {args.dataset_name}", *report, sep="\n          ")
    hardware = f"{run.device}, processes {run.processes}, threads {run.threads}"
    accelerator.print(f"hardware  {hardware}, precision {precision}")

    with stop_flag() as stop, folder.open_run(run, accelerator) as step:
        if step == folder.FINISHED:
            return accelerator.end_training()
        # --- Tokenize and train. The last references to the texts go: their file is unmapped.
        source.from_hub.cache_clear()
        ids = {name: i for i, name in enumerate(labels)}
        reviews["few"] = reviews["eval"].sample(LOGGED, args.seed)
        train_set, test_set, few = (
            tokens.encode_reviews(tokenizer, each, list(map(ids.get, each.labels)), stop)
            for each in map(reviews.pop, ("train", "eval", "few"))
        )
        accelerator.print(f"tokens    {train_set.ids.truncated:,} training reviews are truncated")

        def evaluate(max_tokens, last):
            scored = test_set if last else few
            given = accelerator, classifier, scored.ids, precision, max_tokens, stop
            return metrics.score(inference.shared_logits(*given), scored.labels, labels)

        scores = train(run, step, accelerator, classifier, train_set, evaluate, stop)
        # --- Save.
        if accelerator.is_main_process:
            model.save(output_dir, tokenizer, classifier)
            run.seconds = sum(entry.get("seconds", 0) for entry in read_log(output_dir))
            run.write(output_dir)
            split = data.scored_as(run.reviews["eval"]["split"], args)
            scores |= card.origin(args.dataset_name, run.commits["dataset"], split)
            card.write_results(output_dir, run, scores)
    accelerator.end_training()
    accelerator.print(f"next: python evaluate.py --model_name_or_path {output_dir}")


if __name__ == "__main__":
    main()
