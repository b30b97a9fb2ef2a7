"""Attention within each of many packed reviews: in groups on a CPU, by one kernel on a GPU."""

import math

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from sentiment.fast.dropout import dropout_mask
from sentiment.model import ATTENTION_DROPOUT

NAME = "packed"
LENGTHS = 16  # on a CPU, reviews are padded to a multiple; see packing.TOKENS


def attend(module, query, key, value, mask, layout=None, context=None, **options):
    """As transformers calls it. With a `layout`: [1, heads, T, D] -> [1, T, heads, D].

    With a `context` [1, T, H] for keys and values, queries are first tokens: [1, heads, B, D].
    """
    if layout is None:
        return AttentionInterface()["sdpa"](module, query, key, value, mask, **options)
    scaling, dropout = options["scaling"], options["dropout"]
    # [T, heads, D], without a copy
    query, key, value = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    if context is not None:
        distilbert = hasattr(module, "k_lin")
        linear = (module.k_lin, module.v_lin) if distilbert else (module.key, module.value)
        key, value = (layer(context.squeeze(0)).unflatten(1, query.shape[1:]) for layer in linear)
    if layout.groups is not None:
        attended = by_review(query * scaling, key, value, layout.groups, dropout)
    else:
        attended = by_kernel(query, key, value, layout, scaling, dropout)
    return attended[None], None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)  # for inputs without a layout


def kernel_supports(model, precision):
    """Whether `by_kernel` runs it."""
    config = model.config
    if model.device.type != "cuda" or torch.version.hip:
        return False
    flash = precision != "no" and torch.cuda.get_device_capability(model.device) >= (8, 0)
    # The other kernel draws another dropout mask in its backward pass.
    drops = any(getattr(config, name, 0) for name in ATTENTION_DROPOUT)
    return config.hidden_size // config.num_attention_heads % 8 == 0 and (flash or not drops)


def by_kernel(query, key, value, layout, scaling, dropout):
    """Attention within each review on a GPU. Public functions lack dropout or `starts`."""
    ops, starts, longest = torch.ops.aten, layout.starts, layout.longest
    where = starts, starts, longest, longest
    if len(query) < len(key):  # first tokens only
        each = torch.arange(len(starts), dtype=torch.int32, device=query.device)
        where = each, starts, 1, longest
    if query.dtype != torch.float32 and torch.cuda.get_device_capability() >= (8, 0):
        # dropout in bytes: 0.1 drops 26 of 256
        given = query, key, value, *where, dropout, False, False
        return ops._flash_attention_forward(*given, scale=scaling)[0]
    given = query[None], key[None], value[None], None, *where, 0.0, 0, torch.is_grad_enabled()
    return ops._efficient_attention_forward(*given, scale=scaling)[0][0]


@torch.autocast("cpu", enabled=False)  # its softmax in fp32 would only be rounded again
def by_review(query, key, value, groups, dropout):
    """Attention within each review on a CPU: [T, heads, D], or [B, heads, D] for first tokens."""
    if dropout:
        value = value / (1 - dropout)
    tokens = list(map(sum, groups))
    rows = tokens if len(query) == len(key) else list(map(len, groups))
    tokens, rows = [*tokens, len(key) - sum(tokens)], [*rows, len(query) - sum(rows)]  # padding
    attended = []
    parts = zip(query.split(rows), key.split(tokens), value.split(tokens), groups, strict=False)
    for *states, group in parts:
        # [reviews, heads, tokens, D]
        states = [part.unflatten(0, (len(group), -1)).transpose(1, 2) for part in states]
        if dropout or query.dtype != torch.float32:
            result = by_products(*states, dropout)
        else:  # only here is torch's kernel faster
            result = scaled_dot_product_attention(*states, scale=1.0)
        attended.append(result.transpose(1, 2).flatten(0, 1))
    attended.append(query.new_zeros(rows[-1], *query.shape[1:]))
    return torch.cat(attended)


def by_products(query, key, value, dropout):
    """Attention of equally long reviews, [reviews, heads, tokens, D]; without dropout's scale."""
    q, k, v = (filled_up(states.flatten(0, 1)) for states in (query, key, value))
    weights = torch.bmm(q, k.transpose(1, 2))
    with torch.no_grad():  # padding gets weight 0 and no gradient
        weights[:, :, key.shape[2] :] = -math.inf
    weights = torch.softmax(weights, -1)
    if dropout:
        weights = weights * dropout_mask(weights, dropout)
    return torch.bmm(weights, v)[:, : query.shape[2]].unflatten(0, query.shape[:2])


def filled_up(states):
    """[N, L, D] with zeros behind L up to a multiple of LENGTHS, except for L = 1."""
    rows = states.shape[1]  # contiguous: the matrix products gain more than the copy takes
    return pad(states, (0, 0, 0, -rows % LENGTHS if rows > 1 else 0)).contiguous()
