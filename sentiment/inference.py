"""Forward passes: token ids -> logits, for train.py, evaluate.py and predict.py."""

import itertools
import os
import sys
import traceback

import torch
from accelerate.utils.memory import clear_device_cache
from tqdm import tqdm

from sentiment import batches, distributed
from sentiment.errors import RunError, Stopped, first_line, is_out_of_memory
from sentiment.fast import packing
from sentiment.tokens import BAR


def passes(model, ids, chosen, max_tokens, targets=lambda chosen: torch.empty(len(chosen), 0)):
    """The forward passes over the reviews `chosen`: (their indices, the model's inputs, targets).

    ids: an int64 tensor for each review; max_tokens: per pass, with padding unless packed; targets:
    of reviews by index, float32 [B, C]. Packed on a GPU, more rows follow, with targets 0.
    """
    lengths, packed = {i: len(ids[i]) for i in chosen}, packing.applies(model)
    for group in batches.micro_batches(chosen, lengths, max_tokens, not packed):
        distributed.begun["passes"] += 1
        reviews, wanted = [ids[i] for i in group], targets(group)
        if packed and model.device.type != "cpu":
            yield group, *packing.in_one_row(model, reviews, wanted)
            continue
        side = getattr(model, "padding_side", "right")  # trial.check sets it
        inputs = batches.pad(reviews, model.pad_token_id, side)
        inputs = {name: packing.send(part, model.device) for name, part in inputs.items()}
        if packed:
            packing.add_layout(inputs)
        yield group, inputs, packing.send(wanted, model.device)


@torch.inference_mode()
def logits(model, ids, precision, advance=lambda count: None, max_tokens=None):
    """float32 [len(ids), classes] on the CPU. Raises RunError if one is not finite.

    advance: called with the number of reviews in each pass.
    """
    model.eval()
    max_tokens = max_tokens or token_budget(model)
    if model.device.type != "cpu":
        max_tokens *= 4  # without a backward pass, activations are freed
    max_tokens = min(max_tokens, getattr(model, "fitting_tokens", max_tokens))
    order, rows = [], [torch.empty(0, model.config.num_labels, device=model.device)]
    remaining = set(range(len(ids)))
    # around all passes: weights are cast once
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
        while remaining:
            try:
                for group, inputs, _ in passes(model, ids, sorted(remaining), max_tokens):
                    rows.append(model(**inputs).logits[: len(group)].float())
                    order += group
                    remaining.difference_update(group)
                    advance(len(group))
            except RuntimeError as error:
                longest = max(len(ids[i]) for i in remaining)
                model.fitting_tokens = max_tokens = recover(error, max_tokens, longest)
    result = torch.cat(rows).cpu()[torch.tensor(order).argsort()]
    if not torch.isfinite(result).all():
        raise RunError("the logits are not finite: the weights are damaged, or training diverged")
    return result


def shared_logits(accelerator, model, ids, precision, max_tokens=None, stop=()):
    """`logits`, computed by all ranks together; every rank gets all rows.

    Once a rank has a signal in `stop`, all raise Stopped after a chunk.
    """
    # Of the same size on all ranks, whatever their memory.
    chunks, size = [], (64 if model.device.type == "cpu" else 256) * accelerator.num_processes
    bar = tqdm(desc="scored", total=len(ids), disable=not accelerator.is_main_process, **BAR)
    reviews, ranks = iter(ids), (accelerator.process_index, accelerator.num_processes)
    while chunk := list(itertools.islice(reviews, size)):
        mine = batches.share(range(len(chunk)), list(map(len, chunk)), *ranks)
        rows = torch.zeros(len(chunk) + 1, model.config.num_labels)  # the last row is the stop flag
        rows[mine] = logits(model, [chunk[i] for i in mine], precision, max_tokens=max_tokens)
        rows[-1] = bool(stop)
        rows = distributed.all_reduce(accelerator, rows.to(accelerator.device)).cpu()
        if rows[-1].any():
            raise Stopped(stop)
        chunks.append(rows[:-1])
        bar.update(len(chunk))
    bar.close()
    return torch.cat(chunks)


def token_budget(model):
    """Default of --max_tokens_per_device, from model and device alone."""
    if model.device.type == "cpu":
        return 4096  # larger passes are no faster
    memory = 24 * 10**9
    if model.device.type == "cuda":
        memory = torch.cuda.get_device_properties(model.device).total_memory
    # 600 = 2 (half of the memory) * 3 (graphs) * 100 bytes per token, layer and hidden unit
    config = model.config
    size = getattr(config, "hidden_size", 768) * getattr(config, "num_hidden_layers", 12)
    return max(512, min(32768, memory // (600 * size) // 1024 * 1024))


def recover(error, max_tokens, longest):
    """The token budget for another try: half of it if memory ran out, the same if an operation has
    no deterministic kernel. Raises any other `error`; RunError: one review of `longest` tokens
    does not fit.
    """
    if "does not have a deterministic implementation" in str(error):
        torch.use_deterministic_algorithms(False)
        if os.environ.get("RANK", "0") == "0":
            name = str(error).split()[0]
            print(f"{name} has no deterministic kernel: runs may differ", file=sys.stderr)
        return max_tokens
    if not is_out_of_memory(error):
        raise error
    if max_tokens <= longest:
        reason = f"out of memory with one review of {longest} tokens"
        raise RunError(f"{reason}: {first_line(error)}") from error
    traceback.clear_frames(error.__traceback__)  # they hold activations
    clear_device_cache()
    max_tokens //= 2
    print(f"out of memory: continuing with at most {max_tokens} tokens per pass", file=sys.stderr)
    return max_tokens
