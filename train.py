"""Fine-tune an encoder to tell positive texts from negative ones, with a hand-written loop on Accelerate.

    accelerate launch --config_file accelerate_config.yaml train.py
    python train.py --model_name_or_path sample/model --dataset_name sample/reviews --learning_rate 3e-4

Top to bottom: read and check the reviews, load the encoder, train, score the test reviews, save. README.md describes
the settings and the files that are left in --output_dir.
"""

import math
import time
from pathlib import Path

import torch

from sentiment import batches, checkpoint, data, device, hub, inference, metrics, model, processes, run_folder, unpadded
from sentiment.cli import Parser, RunError, Stopped, UserError, number, script, stop_flag
from sentiment.report import TrainingLog, pick_tracker


def parse_args(argv):
    parser = Parser(description="Fine-tune an encoder for text sentiment.")
    add = parser.add_argument_group("what").add_argument
    add("--model_name_or_path", default="distilbert/distilbert-base-uncased", help="Hub id or folder")
    add("--revision", default="main", help="of a model on the Hub: branch, tag or commit")
    add("--dataset_name", default="stanfordnlp/imdb", help="Hub id, folder with train and test files, or one file")
    add("--text_column", default="text", help="column of the texts")
    add("--label_column", default="label", help="column of the labels: integers or strings")
    add("--max_train_samples", type=number(int, 0), default=1000, help="training reviews, drawn stratified; 0: all")
    add("--max_eval_samples", type=number(int, 0), default=100, help="test reviews, drawn stratified; 0: all")
    tokens = "tokens per review (default: 512, or fewer if the model takes fewer)"
    add("--max_length", type=number(int, model.SHORTEST), help=tokens)
    add("--output_dir", type=Path, default=Path(model.DEFAULT_FOLDER), help="where everything of the run goes")
    either = parser.add_mutually_exclusive_group().add_argument
    either("--overwrite_output_dir", action="store_true", help="replace the run that --output_dir holds")
    either("--resume", action="store_true", help="go on from its newest checkpoint, or start if there is none")
    add("--checkpointing_steps", type=number(int, 1), help="updates between checkpoints (default: one epoch)")
    add = parser.add_argument_group("how").add_argument
    add("--train_batch_size", type=number(int, 1), default=16, help="reviews per update over all processes")
    tokens = "most tokens in one forward pass (default: by device and model); halved where memory runs out"
    add("--max_tokens_per_device", type=number(int, 1), help=tokens)
    add("--learning_rate", type=number(float, 0, above=True), default=5e-5, help="AdamW's, at the end of the warm-up")
    add("--weight_decay", type=number(float, 0), default=0.01, help="AdamW's; not on biases and norms")
    add("--warmup_ratio", type=number(float, 0, 1), default=0.1, help="share of the updates with a rising rate")
    add("--num_train_epochs", type=number(int, 1), default=5, help="passes over the training reviews")
    add("--attention_dropout", type=number(float, 0, 0.9), help="instead of the model's own, which is the default")
    add("--label_smoothing_factor", type=number(float, 0, 0.9), default=0.0, help="share of labels spread over classes")
    add("--max_grad_norm", type=number(float, 0), default=1.0, help="gradients are scaled down to it; 0: never")
    add("--mixed_precision", choices=["auto", "no", "bf16", "fp16"], default="auto", help="auto: by the hardware")
    add("--seed", type=number(int, 0, 2**32 - 1), default=42, help="of subsets, new head, order and dropout")
    add("--report_to", default="none", help="an installed tracker of Accelerate's, such as tensorboard")
    return parser.parse_args(argv)


def learning_rate(update, updates, peak, warmup_ratio):
    """The rate that update 1 <= `update` <= `updates` uses: a straight line up to `peak` over the first
    ceil(warmup_ratio * updates) updates, another one down from it; never 0. Without warm-up it starts at `peak`.
    """
    warmup = math.ceil(warmup_ratio * updates)
    if update <= warmup:
        return peak * update / warmup
    return peak * (updates - update + 1) / (updates - warmup)


def make_optimizer(parameters, weight_decay):
    """AdamW; biases and norms (the parameters with one dimension) do not decay. The rate is set at every update."""
    decaying = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, fused=True)


def add_gradients(accelerator, classifier, passes, labels, batch_size, smoothing):
    """Add the gradients of this process's reviews to the parameters'; returns its part of the loss.

    passes: as from unpadded.passes; labels: class ids of all reviews; batch_size: reviews of the update; smoothing:
    share of each label that is spread evenly over all classes (Szegedy et al. 2016).
    """
    loss = torch.zeros((), device=accelerator.device)
    if accelerator.scaler is not None:  # fp16's, which sets itself up at the first loss; there may be none here
        accelerator.scaler.scale(loss)
    for micro_batch, inputs in passes:
        targets = torch.tensor([labels[i] for i in micro_batch], device=accelerator.device)
        with accelerator.autocast():
            logits = classifier(**inputs).logits
        # The sum over the reviews here, divided once by the number of reviews everywhere: an exact mean.
        part = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)
        accelerator.backward(part / batch_size)
        loss += part.detach() / batch_size
    return loss


def sum_over_processes(accelerator, parameters, loss, stop):
    """Add up the gradients, in place, and the loss of all processes, and find out whether one of them was told to stop
    (`stop` is not empty), in one flat reduction; returns (loss, whether).

    A process without reviews adds zeros. Parameters that no review reaches get zeros on any number of processes.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if accelerator.num_processes == 1:
        return loss.item(), bool(stop)
    gradients = [parameter.grad for parameter in parameters]
    figures = [loss.flatten(), torch.full_like(loss, bool(stop)).flatten()]
    flat = torch.cat([gradient.flatten() for gradient in gradients] + figures)
    *sums, figures = processes.add_up(accelerator, flat).split([gradient.numel() for gradient in gradients] + [2])
    for gradient, total in zip(gradients, sums, strict=True):
        gradient.copy_(total.view_as(gradient))
    loss, stops = figures.tolist()
    return loss, stops > 0


def train(args, run, accelerator, classifier, reviews, labels, pad_token_id, evaluate, log, done, stop):
    """The loop, from the checkpoint after `done` updates on. Returns what `evaluate` said last.

    run: what run.json holds; reviews: token ids, one tensor each; labels: class ids; stop: as from stop_flag. Once it
    is set, on any process, the state is saved and Stopped is raised.
    """
    lengths = [len(review) for review in reviews]
    parameters = list(classifier.parameters())
    optimizer = accelerator.prepare(make_optimizer(parameters, args.weight_decay))
    updates = args.num_train_epochs * math.ceil(len(reviews) / args.train_batch_size)
    state = accelerator, classifier, optimizer
    smoothing = args.label_smoothing_factor
    update, max_tokens = 0, checkpoint.load(args.output_dir, run, done, *state)
    for epoch in range(1, args.num_train_epochs + 1):
        for batch in batches.global_batches(len(reviews), args.train_batch_size, args.seed, epoch):
            started = time.perf_counter()
            update += 1
            if update <= done:
                log.skip(len(batch))
                continue
            classifier.train()
            mine = batches.share(batch, lengths, accelerator.process_index, accelerator.num_processes)
            loss = None
            while loss is None:  # again, from the update's start, where memory ran out
                optimizer.zero_grad()
                torch.manual_seed(batches.dropout_seed(args.seed, update, accelerator.process_index))
                passes = unpadded.passes(classifier, reviews, mine, max_tokens, pad_token_id)
                try:
                    loss = add_gradients(accelerator, classifier, passes, labels, len(batch), smoothing)
                except RuntimeError as error:
                    max_tokens = device.fewer_tokens(error, max_tokens, max(lengths[i] for i in mine))
            loss, stopped = sum_over_processes(accelerator, parameters, loss, stop)
            norm = accelerator.clip_grad_norm_(parameters, args.max_grad_norm or math.inf)
            # Gradients beyond fp16's range are no failure: its scaler leaves the update out and scales by less.
            if not math.isfinite(loss) or not (accelerator.scaler or norm.isfinite()):
                rows = ", ".join(str(run["reviews"]["train"]["rows"][i]) for i in batch)
                found = f"the loss of update {update} is {loss}, its gradients' norm {norm}, on the rows {rows}"
                raise RunError(f"{found}; a lower --learning_rate may help")
            rate = learning_rate(update, updates, args.learning_rate, args.warmup_ratio)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            entry = {"step": update, "epoch": epoch, "loss": loss, "learning_rate": rate}
            entry |= {"tokens": sum(lengths[i] for i in batch), "seconds": time.perf_counter() - started}
            log.update(len(batch), **entry)
            if stopped or update % args.checkpointing_steps == 0:
                checkpoint.save(args.output_dir, run, update, max_tokens, *state)
            if stopped:
                raise Stopped(stop)
        if update >= done:  # the log has the evaluations before it
            try:
                scores = evaluate(max_tokens)
            except Stopped:
                checkpoint.save(args.output_dir, run, update, max_tokens, *state)
                raise
            log.evaluation(update, scores)
    log.close()
    return scores


@script
def main(argv=None):
    args = parse_args(argv)
    run_folder.refuse_unwritable(args.output_dir)
    run_folder.refuse_used(args.output_dir, args.overwrite_output_dir, args.resume)
    for name in (args.model_name_or_path, args.dataset_name):
        if Path(name).exists() and args.output_dir.resolve() in (Path(name).resolve(), *Path(name).resolve().parents):
            raise UserError(f"--output_dir {args.output_dir}: {name} is in it; choose another folder for the run")
    hub.connect(args.model_name_or_path, args.dataset_name)
    device.keep_freed_memory()
    precision = device.pick_precision(args.mixed_precision)
    tracked = args.output_dir / run_folder.TRACKED
    accelerator = processes.start(precision, log_with=pick_tracker(args.report_to), project_dir=tracked)
    say = accelerator.on_main_process(print)
    hardware = {
        "device": device.describe(),
        "processes": accelerator.num_processes,
        "threads": device.use_all_cores(),
        "precision": precision,
    }

    with processes.main_first(accelerator):
        train_reviews, test_reviews, names, report = data.load_train_and_test(args)
        torch.manual_seed(args.seed)  # for the new head: the same on every process
        tokenizer, classifier = model.load(args.model_name_or_path, names, args.revision, args.attention_dropout)
    fingerprint = model.fingerprint(tokenizer, classifier)
    args.max_length = tokenizer.model_max_length = model.pick_max_length(args.max_length, tokenizer.model_max_length)
    train_ids, train_cut = data.encode(tokenizer, train_reviews.texts)
    test_ids, test_cut = data.encode(tokenizer, test_reviews.texts)
    train_labels = [names.index(label) for label in train_reviews.labels]
    test_labels = [names.index(label) for label in test_reviews.labels]
    pad = tokenizer.pad_token_id
    cut = (train_cut + test_cut) / (len(train_ids) + len(test_ids))
    say(f"reviews   {args.dataset_name}", *report, sep="\n          ")
    say(f"          {cut:.0%} of those drawn are longer than {args.max_length} tokens: their end is read")
    say(f"model     {args.model_name_or_path}: {classifier.num_parameters():,} parameters")
    say("hardware  " + ", ".join(f"{key} {value}" for key, value in hardware.items()))

    classifier.to(accelerator.device)
    args.checkpointing_steps = args.checkpointing_steps or math.ceil(len(train_ids) / args.train_batch_size)
    args.max_tokens_per_device = args.max_tokens_per_device or device.max_tokens(classifier)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    reviews = {"train": train_reviews.identity(), "eval": test_reviews.identity()}
    commits = {
        "model": model.commit_of(args.model_name_or_path, args.revision),
        "dataset": data.commit_of(args.dataset_name),
    }
    run = {**run_folder.environment(), "settings": settings, "labels": names, **hardware}
    run |= {"commits": commits, "reviews": reviews, "model_sha256": fingerprint}

    def evaluate(max_tokens):
        logits = inference.shared_logits(accelerator, classifier, test_ids, pad, precision, max_tokens, stop)
        return metrics.score(logits, test_labels, names)

    with stop_flag() as stop, run_folder.recorded(args.output_dir, run, accelerator.is_main_process) as done:
        done = processes.add_up(accelerator, torch.tensor(done, device=accelerator.device)).item()
        if done == run_folder.FINISHED:
            accelerator.end_training()
            return
        accelerator.init_trackers("sentiment", config={k: v for k, v in settings.items() if v is not None})
        log = TrainingLog(accelerator, args.output_dir, args.num_train_epochs * len(train_ids))
        scores = train(args, run, accelerator, classifier, train_ids, train_labels, pad, evaluate, log, done, stop)
        if accelerator.is_main_process:
            model.save(args.output_dir, tokenizer, classifier)
            run["seconds"] = sum(entry.get("seconds", 0) for entry in run_folder.read_log(args.output_dir))
            run_folder.write_json(args.output_dir / "run.json", run)
            origin = run_folder.origin(args.dataset_name, data.scored_split(test_reviews))
            run_folder.write_results(args.output_dir, run, {**scores, **origin})
    accelerator.end_training()
    there = "" if args.output_dir == Path(model.DEFAULT_FOLDER) else f" --model_name_or_path {args.output_dir}"
    say(f"accuracy {scores['accuracy']:.4f}, F1 {scores['f1']:.4f} on {scores['reviews']:,} test reviews")
    say(f"the model is in {args.output_dir}; next: python evaluate.py{there}")


if __name__ == "__main__":
    main()
