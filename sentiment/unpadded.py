"""The encoder without padding: its blocks compute real tokens only, and the last one what the head reads only.

Reviews are padded for the embeddings, [B, L, H]. A hook before the encoder packs the T real tokens, [1, T, H]; an
attention function of transformers' AttentionInterface attends within each review: one after the other on a CPU, by a
kernel on GPUs that have it; elsewhere attention, and nothing else, is padded. Stock heads and poolers read nothing but
a review's first token, so the last block gets those, [1, B, H], and takes keys and values of all tokens.
On a CPU oneDNN makes a kernel for every new shape, which takes longer than its use: tokens of a pass, and of a review
in `by_products`, are filled up there to multiples of TOKENS and LENGTHS. What fills them is not attended to.
Logits and gradients are the padded model's. The hooks are plain functions: the model can be copied, and is saved as the
stock one. Without `layout` among its inputs it computes as the stock one, too.
"""

import inspect
import itertools
import math
from typing import NamedTuple

import numpy
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from sentiment import batches

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None
if varlen_attn and "scale" not in inspect.signature(varlen_attn).parameters:  # torch 2.10
    varlen_attn = None

NAME = "unpadded"
TOKENS, LENGTHS = 64, 16  # on a CPU passes and reviews are filled up to multiples; twice these were no faster
TOGETHER = 512  # tokens of short reviews of equal length that a CPU attends to at once: more leave its caches
ENCODERS = {"distilbert": "transformer", "bert": "encoder", "roberta": "encoder"}


class Layout(NamedTuple):
    """Where the real tokens of B reviews are, the longest of L tokens; T of them, filled up on a CPU."""

    tokens: torch.Tensor  # int64 [T]: their places among the B * L; 0 for what fills them up
    starts: torch.Tensor  # int32 [B + 1]: each review's first among the T, and the number of real ones
    mask: torch.Tensor  # bool [B, L]: which of the B * L are real
    groups: list | None  # on a CPU: (reviews, tokens of each) of neighbours of equal length, which are computed at once


def install(model):
    """Prepare a classifier on DistilBERT, BERT or RoBERTa for inputs with a `layout`; others stay as they are."""
    if model.config.model_type not in ENCODERS or getattr(model.config, "is_decoder", False):
        return
    model.set_attn_implementation(NAME)
    encoder = getattr(model.base_model, ENCODERS[model.config.model_type])
    encoder.register_forward_pre_hook(pack, with_kwargs=True)
    encoder.register_forward_hook(unpack, with_kwargs=True)
    encoder.layer[-1].register_forward_pre_hook(keep_first_tokens, with_kwargs=True)
    for block in encoder.layer:
        getattr(block.attention, "self", block.attention).register_forward_pre_hook(cast_once)
    for module in model.modules():
        if type(module) is torch.nn.Dropout:
            module.__class__ = Dropout


def passes(model, reviews, chosen, max_tokens, pad_token_id):
    """The forward passes over some reviews, at most `max_tokens` tokens in each: pairs of (ids, the model's inputs).

    reviews: an int64 tensor of token ids for each; chosen: ids of those to compute. Padding counts where there is some.
    """
    lengths, prepared = {i: len(reviews[i]) for i in chosen}, model.config._attn_implementation == NAME
    padded = not prepared or model.device.type != "cpu"  # a GPU may pad within attention
    for ids in batches.micro_batches(chosen, lengths, max_tokens, padded):
        inputs = batches.pad([reviews[i] for i in ids], pad_token_id, model.device)
        if prepared:
            inputs["layout"] = layout([lengths[i] for i in ids], inputs.pop("attention_mask").bool())
        yield ids, inputs


def layout(lengths, mask):
    """The Layout of reviews of `lengths` tokens; mask: bool [B, L], which of the padded ones are real."""
    device, longest = mask.device, mask.shape[1]
    starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    tokens = torch.cat([i * longest + torch.arange(length) for i, length in enumerate(lengths)])
    if device.type != "cpu":
        return Layout(tokens.to(device), starts, mask, None)
    tokens = torch.nn.functional.pad(tokens, (0, -len(tokens) % TOKENS))
    groups = []
    for length in lengths:
        count = groups[-1][0] if groups and groups[-1][1] == length else 0
        if count and (count + 1) * length <= TOGETHER:
            groups[-1] = count + 1, length
        else:
            groups.append((1, length))
    return Layout(tokens, starts, mask, groups)


def pack(encoder, args, kwargs):
    """Before the encoder: hidden states [B, L, H] -> [1, T, H]."""
    if layout := kwargs.get("layout"):
        hidden, *args = args or [kwargs.pop("hidden_states")]
        args = (hidden.flatten(0, 1).index_select(0, layout.tokens)[None], *args)
    return args, kwargs


def keep_first_tokens(block, args, kwargs):
    """Before the last block: hidden states [1, T, H] -> the first tokens' [1, B, H]; all of them as `context`."""
    if layout := kwargs.get("layout"):
        kwargs["context"] = as_autocast(args[0])
        args = (args[0].index_select(1, layout.starts[:-1]), *args[1:])
    return args, kwargs


def unpack(encoder, args, kwargs, output):
    """After the encoder: hidden states [1, B, H] -> [B, 1, H]."""
    if kwargs.get("layout"):
        output.last_hidden_state = output.last_hidden_state.transpose(0, 1)
    return output


def cast_once(attention, args):
    """Before an attention, which hands its hidden states to query, key and value: as `as_autocast`."""
    return (as_autocast(args[0]), *args[1:])


def as_autocast(states):
    """In the dtype of the matrix products that are to come: autocast itself would cast once for each of them."""
    device = states.device.type
    return states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states


def attend(module, query, key, value, mask, scaling, dropout=0.0, layout=None, context=None, **kwargs):
    """An attention function as transformers calls it. With a `layout`: [1, heads, T, D] -> [1, T, heads, D].

    context: [1, T, H] for keys and values, where the queries are the first tokens', [1, heads, B, D].
    """
    if layout is None:
        padded = AttentionInterface()["sdpa"]
        return padded(module, query, key, value, mask, scaling=scaling, dropout=dropout, **kwargs)
    if context is not None:
        linear = (module.k_lin, module.v_lin) if hasattr(module, "k_lin") else (module.key, module.value)
        key, value = (project(context).unflatten(2, (-1, query.shape[3])).transpose(1, 2) for project in linear)
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))  # [T, heads, D], not copied
    if layout.groups is not None:
        found = by_review(query * scaling, key, value, layout.groups, dropout)
    elif kernel_takes(query, dropout):
        found = by_kernel(query, key, value, layout, scaling)
    else:
        found = by_padding(query, key, value, layout, scaling, dropout)
    return found[None], None


def by_review(query, key, value, groups, dropout):
    """Attention within each review on a CPU: [T, heads, D], or [B, heads, D] with a query for each review.

    The fused kernel is faster than plain matrix products in 32 bits without dropout only.
    """
    fused = query.dtype == torch.float32 and not dropout
    if dropout:
        value = value / (1 - dropout)
    tokens = [count * length for count, length in groups]
    rows = tokens if len(query) == len(key) else [count for count, _ in groups]
    tokens, rows = [*tokens, len(key) - sum(tokens)], [*rows, len(query) - sum(rows)]  # the last ones fill up
    attended = []
    with torch.autocast("cpu", enabled=False):  # it would compute the softmax in 32 bits, only to round it again
        parts = zip(query.split(rows), key.split(tokens), value.split(tokens), groups, strict=False)
        for *states, (count, _) in parts:
            states = [part.unflatten(0, (count, -1)).transpose(1, 2) for part in states]  # [count, heads, tokens, D]
            if fused:
                found = torch.nn.functional.scaled_dot_product_attention(*states, scale=1.0)
            else:
                found = by_products(*states, dropout)
            attended.append(found.transpose(1, 2).flatten(0, 1))
    attended.append(query.new_zeros(rows[-1], *query.shape[1:]))
    return torch.cat(attended)


def by_products(query, key, value, dropout):
    """Attention of reviews of equal length, [count, heads, tokens, D], by products that stay in the caches.

    What dropout keeps is not scaled up.
    """
    q, k, v = (filled_up(states.flatten(0, 1)) for states in (query, key, value))
    weights = torch.bmm(q, k.transpose(1, 2))
    with torch.no_grad():  # a weight of 0 has no gradient
        weights[:, :, key.shape[2] :] = -math.inf
    weights = torch.softmax(weights, -1)
    if dropout:
        weights = weights * kept(weights, dropout)
    return torch.bmm(weights, v)[:, : query.shape[2]].unflatten(0, query.shape[:2])


def filled_up(states):
    """[N, L, D] -> the same with zeros behind the L rows up to a multiple of LENGTHS; one row (a query's) stays.

    Contiguous, which makes the matrix products faster by more than the copy takes.
    """
    rows = states.shape[1]
    return torch.nn.functional.pad(states, (0, 0, 0, -rows % LENGTHS if rows > 1 else 0)).contiguous()


def kernel_takes(query, dropout):
    """Whether `varlen_attn` computes it: NVIDIA's GPUs from compute capability 8.0 on, in 16 bits, without dropout."""
    return (
        varlen_attn is not None
        and not dropout
        and query.device.type == "cuda"
        and not torch.version.hip
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[2] % 8 == 0
    )


def by_kernel(query, key, value, layout, scaling):
    """Attention by a GPU's kernel, which is told where reviews start; shapes as `by_review`'s."""
    starts, longest = layout.starts, layout.mask.shape[1]
    queries, most = starts, longest
    if len(query) < len(key):
        queries, most = torch.arange(len(starts), dtype=torch.int32, device=starts.device), 1
    return varlen_attn(query, key, value, queries, starts, most, longest, scale=scaling)


def by_padding(query, key, value, layout, scaling, dropout):
    """Attention of reviews padded to the longest, on any device; shapes as `by_review`'s."""

    def pad(states):  # -> [B, heads, L, D]
        padded = states.new_zeros(layout.mask.numel(), *states.shape[1:])
        padded[layout.tokens] = states
        return padded.unflatten(0, layout.mask.shape).transpose(1, 2)

    first = len(query) < len(key)  # a query for each review
    found = torch.nn.functional.scaled_dot_product_attention(
        query[:, :, None] if first else pad(query),
        pad(key),
        pad(value),
        attn_mask=layout.mask[:, None, None],
        dropout_p=dropout,
        scale=scaling,
    )
    return found[:, :, 0] if first else found.transpose(1, 2).flatten(0, 1).index_select(0, layout.tokens)


class Dropout(torch.nn.Dropout):
    """torch's, with the random numbers of `kept` on a CPU."""

    def forward(self, states):
        if not self.training or self.p in (0, 1) or states.device.type != "cpu":
            return super().forward(states)
        return (states * kept(states, self.p)).div_(1 - self.p)


def kept(states, dropout):
    """Ones, and zeros with probability `dropout`, in the shape and dtype of `states`, on a CPU.

    torch's own dropout takes a random number for every element. Here a byte serves each; that it has 256 values only is
    made up for by thresholds drawn for each of 1,024 neighbours: the probability is exact. The bytes come from SFC64,
    twice as fast as torch's Mersenne Twister, and its seed from torch's generator. A comparison in place keeps the
    bytes' dtype: one that makes booleans, and the conversion of these, take ten times as long.
    """
    rows, seed = -(-states.numel() // 1024), torch.randint(2**63 - 1, ()).item()
    noise = torch.from_numpy(numpy.random.SFC64(seed).random_raw(rows * 128).view(numpy.int8)).view(rows, 1024)
    thresholds = (256 * dropout + torch.rand(1024)).floor().sub(128).clamp(max=127).to(torch.int8)
    return noise.ge_(thresholds).flatten()[: states.numel()].view_as(states).to(states.dtype)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)  # for inputs without a layout
