"""The only loop that turns encoded texts into logits: train.py, evaluate.py and predict.py all use it."""

import torch

from sentiment import batches, device
from sentiment.cli import RunError


@torch.inference_mode()
def logits(model, reviews, pad_token_id, precision, advance=lambda count: None):
    """float32 [len(reviews), classes] on the CPU, in the order of `reviews`.

    reviews: an int64 tensor of token ids for each; precision: as device.pick_precision gives it; advance: told the
    number of reviews after each pass. The model is left in evaluation mode.
    """
    model.eval()
    lengths = [len(review) for review in reviews]
    result = torch.empty(len(reviews), model.config.num_labels)
    for batch in batches.micro_batches(range(len(reviews)), lengths, device.max_tokens(model.device)):
        inputs = batches.pad([reviews[i] for i in batch], pad_token_id, model.device)
        with device.autocast(model.device, precision):
            result[batch] = model(**inputs).logits.float().cpu()
        advance(len(batch))
    if not torch.isfinite(result).all():
        raise RunError("the model's answers are not finite numbers: its weights are damaged, or its training diverged")
    return result


def shared_logits(accelerator, model, reviews, pad_token_id, precision):
    """`logits`, each process of the launch computing a part; every process gets all rows."""
    mine = batches.share(
        range(len(reviews)), list(map(len, reviews)), accelerator.process_index, accelerator.num_processes
    )
    result = torch.zeros(len(reviews), model.config.num_labels)
    result[mine] = logits(model, [reviews[i] for i in mine], pad_token_id, precision)
    return accelerator.reduce(result.to(accelerator.device), "sum").cpu()
