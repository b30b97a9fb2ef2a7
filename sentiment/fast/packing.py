"""Hooks that pack an encoder's input and give the head what it reads.

On a GPU, token ids and positions are [1, T]. On a CPU, the embeddings see padded reviews,
[B, L, H]; a hook before the encoder keeps the T real tokens, [1, T, H]. Stock heads read only a
review's first token, so the last layer computes queries for those alone, [1, B, H]. Saved, or
without a `layout` among its inputs, the model is the stock one.
"""

import itertools
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from sentiment.fast import attention, dropout

TOKENS = 64  # on a CPU, passes are padded to a multiple: oneDNN builds a kernel for each shape
GPU_TOKENS, GPU_REVIEWS = 512, 32  # on a GPU, T is a multiple; B a power of two, at least this
TOGETHER = 512  # tokens of short reviews that a CPU attends to at once; more leave its caches
# Where the encoder is. It needs a list `layer`, attention that calls AttentionInterface and passes
# its keyword arguments on, projections as attention.attend names them, a head that reads token 0.
ENCODERS = {"distilbert": "transformer", "bert": "encoder", "roberta": "encoder"}


class Layout(NamedTuple):
    """Where the T tokens of B reviews are."""

    starts: torch.Tensor  # int32 [B + 1]: each review's first token, and the end
    longest: int  # no review has more tokens
    # on a CPU:
    tokens: torch.Tensor | None = None  # int64 [T]: indices into the B * L positions; 0 for padding
    groups: list | None = None  # of lists: the lengths, equal ones together


def install(model, precision):
    """Prepare a classifier on its device for a `layout`, if it is of ENCODERS and has a kernel."""
    kind = model.config.model_type
    if kind == "deberta":  # its mask has fp32's minimum, in 16 bits too: transformers#35332
        model.forward = torch.autocast(model.device.type, enabled=False)(model.forward)
    if kind not in ENCODERS or getattr(model.config, "is_decoder", False):
        return
    if model.device.type != "cpu" and not attention.kernel_supports(model, precision):
        return
    model.set_attn_implementation(attention.NAME)
    encoder = getattr(model.base_model, ENCODERS[kind])
    encoder.register_forward_pre_hook(pack, with_kwargs=True)
    encoder.register_forward_hook(unpack, with_kwargs=True)
    encoder.layer[-1].register_forward_pre_hook(keep_first_tokens, with_kwargs=True)
    for layer in encoder.layer:
        getattr(layer.attention, "self", layer.attention).register_forward_pre_hook(cast_once)
    for module in model.modules():
        if type(module) is torch.nn.Dropout:
            module.__class__ = dropout.Dropout


def applies(model):
    return model.config._attn_implementation == attention.NAME


def add_layout(inputs):
    """On a CPU: replace the mask among the inputs by a layout."""
    mask = inputs.pop("attention_mask")
    tokens, lengths = mask.flatten().nonzero().flatten(), mask.sum(1).tolist()
    tokens = pad(tokens, (0, -len(tokens) % TOKENS))
    starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    groups = []
    for length in lengths:
        if groups and length == groups[-1][0] and sum(groups[-1]) + length <= TOGETHER:
            groups[-1].append(length)
        else:
            groups.append([length])
    inputs["layout"] = Layout(starts, mask.shape[1], tokens, groups)


def in_one_row(model, reviews, targets):
    """On a GPU: inputs and targets. Made-up reviews round T and B up, so that few shapes occur."""
    filler = max(GPU_REVIEWS, 2 ** len(reviews).bit_length()) - len(reviews)
    lengths = [*map(len, reviews), *[1] * filler]
    lengths[-1] += -sum(lengths) % GPU_TOKENS
    spare = 0, sum(lengths[-filler:])
    padding = model.base_model.embeddings.position_embeddings.padding_idx
    first = 0 if padding is None else padding + 1  # RoBERTa
    ids = pad(torch.cat(reviews), spare, value=model.pad_token_id)
    positions = pad(torch.cat([torch.arange(len(each)) for each in reviews]), spare) + first
    starts = torch.tensor([0, *itertools.accumulate(lengths)])
    targets = pad(targets, (0, 0, 0, filler))  # a loss of 0
    parts = ids, positions, starts, targets.flatten().view(torch.int64)
    staged = send(torch.cat(parts), model.device)  # one copy
    ids, positions, starts, floats = staged.split(list(map(len, parts)))
    targets = floats.view(torch.float32).view(targets.shape)
    layout = Layout(starts.int(), -(-max(lengths) // GPU_TOKENS) * GPU_TOKENS)
    return {"input_ids": ids[None], "position_ids": positions[None], "layout": layout}, targets


def send(tensor, device):
    """Copy a tensor to a device; an NVIDIA GPU does so without waiting."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def pack(encoder, args, kwargs):
    """Before the encoder: hidden states [B, L, H] -> [1, T, H]."""
    if (layout := kwargs.get("layout")) and layout.tokens is not None:
        hidden, *args = args or [kwargs.pop("hidden_states")]
        args = (hidden.flatten(0, 1).index_select(0, layout.tokens)[None], *args)
    return args, kwargs


def keep_first_tokens(layer, args, kwargs):
    """Before the last layer: [1, T, H] -> first tokens [1, B, H]; `context` holds all."""
    if layout := kwargs.get("layout"):
        kwargs["context"], *others = cast_once(layer, args)
        args = (args[0].index_select(1, layout.starts[:-1]), *others)
    return args, kwargs


def unpack(encoder, args, kwargs, output):
    """After the encoder: hidden states [1, B, H] -> [B, 1, H]."""
    if kwargs.get("layout"):
        output.last_hidden_state = output.last_hidden_state.transpose(0, 1)
    return output


def cast_once(module, args):
    """Before attention: autocast itself would cast for query, key and value each."""
    states, *others = args
    device = states.device.type
    if torch.is_autocast_enabled(device):
        states = states.to(torch.get_autocast_dtype(device))
    return states, *others
