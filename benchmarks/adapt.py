"""Continued pretraining (Gururangan et al. 2020): train an encoder further on masked tokens.

    python benchmarks/adapt.py --dataset_name better.jsonl --label_column probabilities

Takes train.py's flags, with other defaults; those for labels and scores have no effect. Drops rows
without a label. 15% of the tokens are to be predicted, as by Devlin et al. (2019). A model without
a head for that gets one, and its encoder is frozen in the first tenth of the steps.
"""

import math
import sys
import time
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling

import train
from sentiment import batches, checkpoint, data, distributed, inference, model, tokens
from sentiment.errors import RunError, Stopped, UserError
from sentiment.fast import packing
from sentiment.fast.gradients import Gradients
from sentiment.hub import access, trial
from sentiment.runtime import device, folder, launch, watch
from sentiment.runtime.exits import script, stop_flag
from sentiment.runtime.log import TrainingLog, read_log

DEFAULTS = "--output_dir outputs/adapted --max_train_samples 0 --num_train_epochs 2 "
DEFAULTS += "--max_length 256 --train_batch_size 32 --learning_rate 2e-4 --warmup_ratio 0.06"
HEADS = {"bert": "cls", "distilbert": "vocab_transform", "roberta": "lm_head"}  # its first module


def pack(lm, precision):
    """Pack the encoder. Returns a list that takes one tensor: the places [N] of masked tokens."""
    handle, places = packing.install(lm, precision), []
    if not handle:
        raise UserError(f"cannot be packed in precision {precision}; try --attention_dropout 0")
    handle.remove()  # the last layer keeps all tokens, and the head reads those at `places`
    head = getattr(lm, HEADS[lm.config.model_type])
    head.register_forward_pre_hook(lambda _, args: (args[0][places[0], 0][None],))
    return places


def adapt(run, step, accelerator, lm, new_head, places, ids, collator, log, stop):
    """train.train's loop with the loss of masked tokens, and without evaluation."""
    settings, parameters = Namespace(**run.settings), list(lm.parameters())
    size, seed = settings.train_batch_size, settings.seed
    optimizer = accelerator.prepare(train.make_optimizer(parameters, settings.weight_decay))
    gradients, state = Gradients(accelerator, parameters), (accelerator, lm, optimizer)
    max_tokens, _ = checkpoint.load(run, step, *state)
    frozen_steps = run.last_step // 10 if new_head else 0
    lm.train()
    while step < run.last_step:
        started, (epoch, position) = time.perf_counter(), divmod(step, run.steps_per_epoch)
        batch, step = batches.global_batch(position, size, len(ids), seed, epoch + 1), step + 1
        learns = step > frozen_steps
        lm.base_model.requires_grad_(learns)
        # Gradients of 0 and no weight decay: AdamW does not move a frozen encoder.
        optimizer.param_groups[0]["weight_decay"] = settings.weight_decay * learns
        if step == frozen_steps + 1:
            optimizer.optimizer.state.clear()  # the encoder's moments start here
        given = run.last_step - frozen_steps, settings.learning_rate, settings.warmup_ratio
        lr = train.learning_rate(step - frozen_steps, *given) if learns else 1e-3
        for group in optimizer.param_groups:
            group["lr"] = lr
        while True:
            try:
                accumulate(gradients, lm, places, ids, collator, batch, seed, step, max_tokens)
                break
            except RuntimeError as error:  # out of memory, for example: retry the step
                max_tokens = inference.recover(error, max_tokens, max(ids.lengths[batch]))
        loss, stops, norm = gradients.reduce(stop, settings.max_grad_norm).tolist()
        if not math.isfinite(loss if accelerator.scaler else loss + norm):  # fp16 may skip a step
            raise RunError(f"step {step}: loss {loss}, norm {norm}; try a lower --learning_rate")
        optimizer.step()
        seconds, count = time.perf_counter() - started, int(ids.lengths[batch].sum())
        entry = {"step": step, "epoch": epoch + 1, "loss": loss, "learning_rate": lr}
        log.step({**entry, "tokens": count, "seconds": seconds})
        if stops or step % settings.checkpointing_steps == 0:
            checkpoint.save(run, step, max_tokens, *state)
        if stops:
            raise Stopped(stop)


def accumulate(gradients, lm, places, ids, collator, batch, seed, step, max_tokens):
    """Compute this rank's part of the gradients of the mean loss over all masked tokens."""
    accelerator, sizes = gradients.accelerator, ids.lengths[batch].tolist()
    collator.generator = torch.Generator().manual_seed(batches.dropout_seed(seed, step, "masks"))
    rows = collator.torch_mask_tokens(torch.cat([ids[i] for i in batch])[None])
    total = max(1, int((rows[1] >= 0).sum()))  # over all ranks; unmasked tokens have -100
    shown, wanted = (dict(zip(batch, row[0].split(sizes), strict=True)) for row in rows)
    gradients.clear()
    torch.manual_seed(batches.dropout_seed(seed, step, accelerator.process_index))
    if accelerator.scaler:  # scale() sets it up, for an empty share as well
        accelerator.scaler.scale(gradients.sums)
    mine = batches.share(batch, ids.lengths, accelerator.process_index, accelerator.num_processes)
    for group, inputs, _ in inference.passes(lm, shown, mine, max_tokens):
        labels = torch.cat([wanted[i] for i in group])
        places[:] = [packing.send((labels >= 0).nonzero()[:, 0], lm.device)]
        labels = packing.send(labels[labels >= 0], lm.device)
        with accelerator.autocast():
            logits = lm(**inputs).logits[0].float()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / total
        accelerator.backward(loss)
        gradients.sums[0].add_(loss.detach())


@script
def main(argv=None):
    args = train.parse_args([*DEFAULTS.split(), *(sys.argv[1:] if argv is None else argv)])
    output_dir = folder.check(args)
    access.connect(args.model_name_or_path, args.dataset_name)
    precision = device.pick_precision(args.mixed_precision)
    accelerator = launch.start(precision, args.report_to, output_dir / "trackers")
    with distributed.main_process_first(accelerator):
        texts, labels, report = data.load_split(args, args.train_split_name)
        if not texts:
            raise UserError(f"{args.dataset_name}: no labelled text ({'; '.join(report)})")
        tokenizer, lm, *origin = trial.load_for_training(args, ["0", "1"], list(texts.columns))
    kind, path = lm.config.model_type, lm.name_or_path
    if kind not in HEADS or not tokenizer.mask_token:
        raise UserError(f"{path}: is {kind}; only {', '.join(HEADS)} with a mask token will do")
    lm, loading = AutoModelForMaskedLM.from_pretrained(path, config=lm.config, **model.LOADING)
    new_head = bool(loading["missing_keys"] or loading["mismatched_keys"])
    lm.pad_token_id, collator = tokenizer.pad_token_id, DataCollatorForLanguageModeling(tokenizer)
    places = pack(device.place(lm, accelerator.device), precision)
    texts = texts.sample(args.max_train_samples, args.seed)
    accelerator.print(f"{len(texts):,} texts of {args.dataset_name}", *report, sep="\n")
    given = {"train": texts, "eval": texts.at(slice(0))}, labels, origin
    run = train.describe(args, accelerator, precision, tokenizer, lm, *given)

    with stop_flag() as stop, folder.open_run(run, accelerator) as step:
        if step == folder.FINISHED:
            return accelerator.end_training()
        ids = tokens.encode_reviews(tokenizer, texts, dict.fromkeys(labels, 0), stop).ids
        log = TrainingLog(accelerator, run, step)
        with watch.progress(accelerator, run, log):
            adapt(run, step, accelerator, lm, new_head, places, ids, collator, log, stop)
        if accelerator.is_main_process:
            model.save(output_dir, AutoTokenizer.from_pretrained(path), lm)
            run.seconds = sum(entry["seconds"] for entry in read_log(output_dir))
            run.write(output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
