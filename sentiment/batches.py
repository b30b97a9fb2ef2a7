"""Which reviews an update sees, and who computes them. Pure functions of their arguments, the same on every process."""

import hashlib
import random

import torch


def global_batches(size, batch_size, seed, epoch):
    """The epoch's updates: a permutation of `size` reviews cut into batches; the last one may be short.

    >>> global_batches(5, 2, seed=1, epoch=0)
    [[2, 1], [0, 4], [3]]
    """
    order = list(range(size))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return [order[start : start + batch_size] for start in range(0, size, batch_size)]


def share(batch, lengths, process, processes):
    """The part of a global batch that one process computes, balanced by tokens; it may be empty.

    The longest review left goes to the process with the fewest tokens so far. lengths: tokens of every review.
    """
    if processes == 1:
        return batch
    shares, tokens = [[] for _ in range(processes)], [0] * processes
    for review in sorted(batch, key=lambda i: -lengths[i]):
        least = tokens.index(min(tokens))
        shares[least].append(review)
        tokens[least] += lengths[review]
    return shares[process]


def micro_batches(reviews, lengths, max_tokens, padded):
    """Reviews of like length, at most `max_tokens` tokens a pass; a longer review goes alone.

    padded: whether a review counts as much as the longest of its pass.
    """
    batches, used = [], 0
    for review in sorted(reviews, key=lambda i: -lengths[i]):
        size = lengths[batches[-1][0]] if padded and batches else lengths[review]
        if batches and used + size <= max_tokens:
            batches[-1].append(review)
            used += size
        else:
            batches.append([review])
            used = lengths[review]
    return batches


def pad(reviews, pad_token_id, device):
    """Token ids of B reviews -> the model's inputs: input_ids and attention_mask, int64 [B, longest]."""
    ids = torch.nn.utils.rnn.pad_sequence(reviews, batch_first=True, padding_value=pad_token_id)
    lengths = torch.tensor([len(review) for review in reviews])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def dropout_seed(seed, update, process):
    """Seed of torch's generators for one update on one process.

    torch's CPU generator keeps 32 bits of a seed only, so the three are hashed rather than packed into one integer.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{update}/{process}".encode()).digest()[:4], "big")
