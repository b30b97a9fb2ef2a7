"""The order of reviews, and their split over ranks and micro-batches."""

import hashlib
import itertools
import random

import pytest
import torch

from sentiment import batches


def lengths_of(count, seed=0, longest=60):
    return [random.Random(f"{seed}/{i}").randint(3, longest) for i in range(count)]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def epoch_of(size, batch_size, seed, epoch):
    given = batch_size, size, seed, epoch
    return [batches.global_batch(position, *given) for position in range(-(-size // batch_size))]


@pytest.mark.parametrize("batch_size", range(1, 10))
def test_an_epoch_contains_every_review_once(batch_size):
    for size in range(1, 41):
        global_batches = epoch_of(size, batch_size, seed=3, epoch=1)
        assert sorted(flat(global_batches)) == list(range(size))
        full, rest = divmod(size, batch_size)
        assert [len(batch) for batch in global_batches] == [batch_size] * full + [rest] * (rest > 0)


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def order(seed, epoch):
        return tuple(flat(epoch_of(40, 8, seed, epoch)))

    first = order(1, 1)
    random.seed(5)
    torch.manual_seed(5)
    assert order(1, 1) == first
    assert flat(epoch_of(40, 3, 1, 1)) == list(first)  # the same permutation, split differently
    shuffled = list(range(40))
    random.Random("1/1").shuffle(shuffled)
    assert list(first) == shuffled
    assert len({order(seed, epoch) for seed in range(12) for epoch in range(12)}) == 144
    assert epoch_of(5, 2, seed=1, epoch=0) == [[2, 1], [0, 4], [3]]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_shares_are_disjoint_cover_the_batch_and_are_balanced(processes):
    for size in range(1, 25):
        lengths = lengths_of(100, seed=size)
        batch = random.Random(size).sample(range(100), size)
        shares = [batches.share(batch, lengths, process, processes) for process in range(processes)]
        assert sorted(flat(shares)) == sorted(batch)
        tokens = [sum(lengths[i] for i in share) for share in shares]
        assert max(tokens) - min(tokens) <= max(lengths[i] for i in batch)
        assert sum(not share for share in shares) == max(0, processes - size)


def test_a_long_review_is_balanced_by_several_short_ones():
    shares = [batches.share([0, 1, 2, 3], [10, 10, 10, 30], process, 2) for process in range(2)]
    assert sorted(map(sorted, shares)) == [[0, 1, 2], [3]]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 40, 59, 60, 61, 300, 10**6])
def test_micro_batches_cover_the_share_and_keep_to_the_limit(max_tokens, padded):
    """Padding counts if it is computed. A micro-batch ends only where the next
    review would not have fitted.
    """
    for size in range(30):
        lengths = lengths_of(50, seed=size)
        share = random.Random(size).sample(range(50), size)
        groups = batches.micro_batches(share, lengths, max_tokens, padded)
        assert sorted(flat(groups)) == sorted(share)
        sizes = [
            [max(lengths[i] for i in batch) if padded else lengths[j] for j in batch]
            for batch in groups
        ]
        assert all(len(batch) == 1 or sum(batch) <= max_tokens for batch in sizes)
        following = [
            sizes[n][0] if padded else lengths[batch[0]] for n, batch in enumerate(groups[1:])
        ]
        assert all(
            sum(batch) + more > max_tokens for batch, more in zip(sizes, following, strict=False)
        )


@pytest.mark.parametrize("padded", [True, False])
def test_a_review_over_the_token_budget_gets_its_own_pass(padded):
    lengths = [5, 100, 5, 5, 5, 5]
    groups = batches.micro_batches(range(6), lengths, 20, padded)
    assert [[lengths[i] for i in batch] for batch in groups] == [[100], [5, 5, 5, 5], [5]]


def test_pad_gives_ids_and_a_mask_of_the_real_tokens():
    reviews = [torch.tensor([2, 7, 3]), torch.tensor([2, 3]), torch.tensor([9])]
    inputs = batches.pad(reviews, 1)
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].tolist() == [[2, 7, 3], [2, 3, 1], [9, 1, 1]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert {tensor.dtype for tensor in inputs.values()} == {torch.int64}


def test_the_mask_depends_on_length_not_on_the_padding_token():
    inputs = batches.pad([torch.tensor([2, 0, 3]), torch.tensor([2])], 0)
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_dropout_seeds_are_hashed_and_unique():
    assert batches.dropout_seed(42, 7, 1) == int(hashlib.sha256(b"42/7/1").hexdigest()[:8], 16)
    places = itertools.product(range(10), range(1, 11), range(10))
    assert len({batches.dropout_seed(*place) for place in places}) == 1000
