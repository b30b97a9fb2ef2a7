"""Which reviews a step uses, and which rank computes them: pure functions, equal on all ranks."""

import array
import functools
import hashlib
import random

import torch
from torch.nn.utils.rnn import pad_sequence


@functools.lru_cache(maxsize=1)  # asked for in every step
def order(size, seed, epoch):
    """A seeded permutation of `size` reviews, as an array."""
    reviews = array.array("I", range(size))
    random.Random(f"{seed}/{epoch}").shuffle(reviews)
    return reviews


def global_batch(position, batch_size, size, seed, epoch):
    """The reviews of one step of an epoch; the last batch may be short."""
    start = position * batch_size
    return order(size, seed, epoch)[start : start + batch_size].tolist()


def share(batch, lengths, rank, world_size):
    """The part of a global batch that one rank computes, balanced by tokens; it may be empty."""
    shares, tokens = [[] for _ in range(world_size)], [0] * world_size
    for review in sorted(batch, key=lambda i: -lengths[i]):  # the longest first
        least = tokens.index(min(tokens))
        shares[least].append(review)
        tokens[least] += lengths[review]
    return shares[rank]


def micro_batches(reviews, lengths, max_tokens, padded):
    """Groups of similar length with at most `max_tokens` tokens each; a longer review gets its own.

    padded: whether a review costs as many tokens as the longest one of its group.
    """
    groups, used = [], 0
    for review in sorted(reviews, key=lambda i: -lengths[i]):
        size = lengths[groups[-1][0]] if padded and groups else lengths[review]
        if not groups or used + size > max_tokens:
            groups.append([])
            used, size = 0, lengths[review]
        groups[-1].append(review)
        used += size
    return groups


def pad(ids, pad_token_id, side="right"):
    """Token ids of B reviews -> the model's inputs: input_ids and attention_mask, int64 [B, L]."""
    padded = pad_sequence(ids, batch_first=True, padding_value=pad_token_id, padding_side=side)
    mask = pad_sequence(list(map(torch.ones_like, ids)), batch_first=True, padding_side=side)
    return {"input_ids": padded, "attention_mask": mask}


def dropout_seed(seed, step, rank):
    """Seed of torch's generators for one step on one rank."""
    # Hashed: torch's CPU generator uses only 32 bits of its seed; packed numbers would collide.
    return int(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).hexdigest()[:8], 16)
