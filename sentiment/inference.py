"""Forward passes: token ids -> logits, for train.py, evaluate.py and predict.py."""

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


def passes(model, ids, chosen, max_tokens):
    """The forward passes over the reviews `chosen`: pairs of (their indices, the model's inputs).

    ids: an int64 tensor for each review; max_tokens: per pass, with padding unless packed on a CPU.
    """
    lengths, packed = {i: len(ids[i]) for i in chosen}, packing.applies(model)
    padded = not packed or model.device.type != "cpu"  # a GPU holds padded embeddings as well
    for group in batches.micro_batches(chosen, lengths, max_tokens, padded):
        inputs = batches.pad([ids[i] for i in group], model.pad_token_id, model.device)
        if packed:
            inputs = packing.add_layout(inputs, [lengths[i] for i in group])
        yield group, inputs


@torch.inference_mode()
def logits(model, ids, precision, advance=lambda count: None, max_tokens=None):
    """float32 [len(ids), classes] on the CPU. Raises RunError if one is not finite.

    precision: "no", "bf16" or "fp16"; advance: called with the number of reviews in each pass.
    """
    model.eval()
    max_tokens = max_tokens or token_budget(model)
    result = torch.empty(len(ids), model.config.num_labels)
    remaining = set(range(len(ids)))
    # around all passes: weights are cast once
    dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
        while remaining:
            try:
                for group, inputs in passes(model, ids, sorted(remaining), max_tokens):
                    result[group] = model(**inputs).logits.float().cpu()
                    remaining.difference_update(group)
                    advance(len(group))
            except RuntimeError as error:
                longest = max(len(ids[i]) for i in remaining)
                max_tokens = recover(error, max_tokens, longest)
    if not torch.isfinite(result).all():
        raise RunError("the logits are not finite: the weights are damaged, or training diverged")
    return result


def shared_logits(accelerator, model, ids, precision, max_tokens=None, stop=()):
    """`logits`, computed by all ranks together; every rank gets all rows.

    Once a rank has a signal in `stop`, all raise Stopped after a chunk.
    """
    chunks, size = [], token_budget(model) // 64 * accelerator.num_processes
    bar = tqdm(desc="scored", total=len(ids), disable=not accelerator.is_main_process, **BAR)
    for start in range(0, len(ids), size):
        chunk = range(start, min(start + size, len(ids)))
        lengths = {i: len(ids[i]) for i in chunk}
        mine = batches.share(chunk, lengths, accelerator.process_index, accelerator.num_processes)
        own = logits(model, [ids[i] for i in mine], precision, max_tokens=max_tokens)
        rows = torch.zeros(len(chunk) + 1, model.config.num_labels)  # the last row is the stop flag
        rows[[i - start for i in mine]] = own
        rows[-1] = bool(stop)
        rows = distributed.all_reduce(accelerator, rows.to(accelerator.device)).cpu()
        if rows[-1].any():
            raise Stopped(stop)
        chunks.append(rows[:-1])
        bar.update(len(chunk))
    bar.close()
    return torch.cat(chunks)


def token_budget(model):
    if model.device.type == "cpu":
        return 4096  # larger passes are no faster
    # Not measured yet. Memory grows with the hidden size.
    return max(512, 16384 * 768 // getattr(model.config, "hidden_size", 768))


def recover(error, max_tokens, longest):
    """The token budget for another try after `error`: half of it if memory ran out, the same if an
    operation has no deterministic kernel. Raises any other error.

    RunError: not even one review of `longest` tokens fitted.
    """
    if "does not have a deterministic implementation" in str(error):
        torch.use_deterministic_algorithms(False)
        if os.environ.get("RANK", "0") == "0":
            operation = str(error).split()[0]
            print(f"{operation} has no deterministic kernel: runs may differ", file=sys.stderr)
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
