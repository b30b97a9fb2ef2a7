"""Continued pretraining: train an encoder further as a masked language model, on texts without
labels (Gururangan et al. 2020). train.py then starts from it.

    python benchmarks/adapt.py --model_name_or_path MODEL --dataset_name texts.jsonl --output_dir A
    python train.py --model_name_or_path A

15% of the tokens are to be predicted, as by Devlin et al. (2019). A model without a head for that
gets a new one, which is trained alone at first. The same command continues a killed run.
"""

import argparse
import itertools
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import train
from sentiment import batches, checkpoint, inference, model, tokens
from sentiment.fast import packing
from sentiment.fast.gradients import Gradients
from sentiment.run import Run
from sentiment.runtime import device, launch
from sentiment.runtime.exits import script

HEADS = {"bert": "cls", "distilbert": "vocab_transform", "roberta": "lm_head"}  # where they start
HEAD_STEPS, HEAD_RATE, CHECKPOINTING_STEPS = 150, 1e-3, 200
NUMBERS = {  # flags
    "max_texts": sys.maxsize,
    "num_train_epochs": 2,
    "learning_rate": 2e-4,
    "train_batch_size": 32,
    "max_length": 256,
    "max_tokens_per_device": 4096,
    "seed": 1,
}


def mask(ids, tokenizer, seed):
    """(ids to read, positions to predict, ids to predict) of a text: int64 tensors."""
    random = torch.Generator().manual_seed(seed)
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    draws = torch.rand(len(ids), generator=random).masked_fill(special, 1)
    positions = (draws < 0.15).nonzero().flatten()
    kinds = torch.rand(len(positions), generator=random)
    others = torch.randint(len(tokenizer), (len(positions),), generator=random)
    shown = torch.where(kinds < 0.9, others, ids[positions])
    shown = shown.masked_fill(kinds < 0.8, tokenizer.mask_token_id)
    return ids.scatter(0, positions, shown), positions, ids[positions]


def prepare(classifier, precision):
    """Pack the encoder. Returns a list: the head will read the tokens [N] that it holds."""
    packing.install(classifier, precision)
    assert packing.applies(classifier), "this encoder cannot be packed here"
    kind, places = classifier.config.model_type, []
    last = getattr(classifier.base_model, packing.ENCODERS[kind]).layer[-1]
    for key, hook in list(last._forward_pre_hooks.items()):
        if hook is packing.keep_first_tokens:
            del last._forward_pre_hooks[key]
    head = getattr(classifier, HEADS[kind])
    head.register_forward_pre_hook(lambda _, args: (args[0][places[0], 0][None],))
    return places


def adapt(run, accelerator, classifier, places, ids, tokenizer, head):
    """Train the parameters `head` for HEAD_STEPS, or all in whole epochs if there are none."""
    size, seed = run.settings["train_batch_size"], run.settings["seed"]
    ranks = accelerator.process_index, accelerator.num_processes
    per_epoch, limit = math.ceil(len(ids) / size), run.settings["max_tokens_per_device"]
    last_step = HEAD_STEPS if head else per_epoch * run.settings["num_train_epochs"]
    peak = HEAD_RATE if head else run.settings["learning_rate"]
    parameters = head or list(classifier.parameters())
    chosen = set(map(id, parameters))
    for parameter in classifier.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    optimizer = accelerator.prepare(train.make_optimizer(parameters, 0.01))
    gradients, state = Gradients(accelerator, parameters), (accelerator, classifier, optimizer)
    done = 0 if head else checkpoint.newest(run.folder, run)
    checkpoint.load(run, done, *state)
    classifier.train()
    for step in range(done + 1, last_step + 1):
        epoch, position = divmod(step - 1, per_epoch)
        batch = batches.global_batch(position, size, len(ids), seed, epoch + 1)
        masked = {i: mask(ids[i], tokenizer, batches.dropout_seed(seed, step, i)) for i in batch}
        total = sum(len(wanted) for *_, wanted in masked.values())  # over all ranks: exact
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate(step, last_step, peak, 0.06)
        gradients.clear()
        torch.manual_seed(batches.dropout_seed(seed, step, f"rank {ranks[0]}"))
        read, mine = {i: masked[i][0] for i in batch}, batches.share(batch, ids.lengths, *ranks)
        for group, inputs, _ in inference.passes(classifier, read, mine, limit):
            starts = inputs["layout"].starts[: len(group)].tolist()
            parts = [start + masked[i][1] for start, i in zip(starts, group, strict=True)]
            places[:] = [torch.cat(parts).to(classifier.device)]
            wanted = torch.cat([masked[i][2] for i in group]).to(classifier.device)
            with accelerator.autocast():
                logits = classifier(**inputs).logits[0].float()
            loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / total
            accelerator.backward(loss)
            gradients.sums[0].add_(loss.detach())
        loss, *_ = gradients.reduce((), 1.0).tolist()
        optimizer.step()
        if step % 50 == 0 or step == last_step:
            accelerator.print(f"{'head: ' * bool(head)}{step} of {last_step}: loss {loss:.3f}")
        if not head and step % CHECKPOINTING_STEPS == 0:
            checkpoint.save(run, step, limit, *state)


@script
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model_name_or_path", "dataset_name", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    for name, default in NUMBERS.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args, precision = parser.parse_args(argv), device.pick_precision()
    accelerator = launch.start(precision)
    torch.manual_seed(args.seed)
    name, load = args.model_name_or_path, AutoModelForMaskedLM.from_pretrained
    tokenizer = AutoTokenizer.from_pretrained(name)
    classifier, report = load(name, dtype=torch.float32, output_loading_info=True)
    with open(args.dataset_name, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, args.max_texts)]
    reader = model.for_reviews(AutoTokenizer.from_pretrained(name))
    reader.model_max_length, classifier.pad_token_id = args.max_length, tokenizer.pad_token_id
    ids = tokens.encode(reader, texts)
    settings = {**vars(args), "load_best_model_at_end": False}
    digest = model.fingerprint(reader, classifier)
    hardware = device.describe(), accelerator.num_processes, torch.get_num_threads(), precision
    run = Run(settings, [], {"train": texts}, {}, digest, *hardware)
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "log.jsonl").touch()
    places = prepare(device.place(classifier, accelerator.device), precision)
    new = [p for name, p in classifier.named_parameters() if name in report["missing_keys"]]
    given = run, accelerator, classifier, places, ids, tokenizer
    if new and not checkpoint.paths(run.folder):
        adapt(*given, new)
    adapt(*given, None)
    if accelerator.is_main_process:
        model.save(run.folder, tokenizer, classifier)


if __name__ == "__main__":
    main()
