"""The only loop that turns encoded texts into logits: train.py, evaluate.py and predict.py all use it."""

import torch

from sentiment import batches, device, processes, unpadded
from sentiment.cli import RunError, Stopped


@torch.inference_mode()
def logits(model, reviews, pad_token_id, precision, advance=lambda count: None, max_tokens=None):
    """float32 [len(reviews), classes] on the CPU, in the order of `reviews`.

    reviews: an int64 tensor of token ids for each; precision: as device.pick_precision gives it; advance: told the
    number of reviews after each pass; max_tokens: in a pass, fewer where memory runs out; default: by device and model.
    The model is left in evaluation mode.
    """
    model.eval()
    max_tokens = max_tokens or device.max_tokens(model)
    result = torch.empty(len(reviews), model.config.num_labels)
    left = set(range(len(reviews)))
    with device.autocast(model.device, precision):  # around all passes: the weights are cast once
        while left:
            try:
                for ids, inputs in unpadded.passes(model, reviews, sorted(left), max_tokens, pad_token_id):
                    result[ids] = model(**inputs).logits.float().cpu()
                    left.difference_update(ids)
                    advance(len(ids))
            except RuntimeError as error:
                max_tokens = device.fewer_tokens(error, max_tokens, max(len(reviews[i]) for i in left))
    if not torch.isfinite(result).all():
        raise RunError("the model's answers are not finite numbers: its weights are damaged, or its training diverged")
    return result


def shared_logits(accelerator, model, reviews, pad_token_id, precision, max_tokens=None, stop=()):
    """`logits`, each process of the launch computing a part; every process gets all rows.

    stop: as from cli.stop_flag. After every some seconds' worth of reviews the processes agree: Stopped is raised by
    all of them once the flag of one is set.
    """
    lengths, found = list(map(len, reviews)), []
    size = device.max_tokens(model) // 64 * accelerator.num_processes
    for start in range(0, len(reviews), size):
        chunk = range(start, min(start + size, len(reviews)))
        mine = batches.share(chunk, lengths, accelerator.process_index, accelerator.num_processes)
        rows = torch.zeros(len(chunk) + 1, model.config.num_labels)  # the last one is the flag
        rows[[i - start for i in mine]] = logits(
            model, [reviews[i] for i in mine], pad_token_id, precision, max_tokens=max_tokens
        )
        rows[-1] = bool(stop)
        rows = processes.add_up(accelerator, rows.to(accelerator.device)).cpu()
        if rows[-1].any():
            raise Stopped(stop)
        found.append(rows[:-1])
    return torch.cat(found)
