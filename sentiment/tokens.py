"""Token ids of reviews: one flat array, in memory or in a file that all processes map."""

import hashlib
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy
import tokenizers
import torch
from tqdm import tqdm

from sentiment import files
from sentiment.errors import Stopped

LARGE = 10_000  # reviews; more are tokenized into a file, and run.json does not list their rows
BAR = {"unit": " reviews", "delay": 5, "mininterval": 5}  # for tqdm


class Tokens(Sequence):
    """Of N reviews: tokens[i] is an int64 tensor of ids, special ones included."""

    def __init__(self, buffer, size):
        """buffer: what `write` wrote for `size` texts."""
        head = numpy.frombuffer(buffer, numpy.int64, size + 2)
        self.truncated, self.offsets = int(head[0]), head[1:]
        self.lengths = numpy.diff(self.offsets)
        ids = memoryview(buffer)[head.nbytes :]
        self.ids = numpy.frombuffer(ids, f"u{len(ids) // max(1, self.offsets[-1]) or 2}")

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        ids = self.ids[self.offsets[i] : self.offsets[i + 1]]
        return torch.from_numpy(ids.astype(numpy.int64))


def write(file, tokenizer, texts, stop):
    """Write int64: the number of truncated texts, N + 1 offsets; then the ids. Raises Stopped."""
    head, chunk = numpy.zeros(len(texts) + 2, numpy.int64), 1000  # encodings take much memory
    dtype = numpy.uint16 if len(tokenizer) <= 2**16 else numpy.uint32
    file.write(head)
    with tqdm(desc="tokenized", total=len(texts), **BAR) as bar:
        for start in range(0, len(texts), chunk):
            if stop:
                raise Stopped(stop)
            encodings = tokenizer(texts[start : start + chunk], truncation=True).encodings
            ids = [encoding.ids for encoding in encodings]
            file.write(numpy.fromiter(itertools.chain.from_iterable(ids), dtype))
            head[start + 2 : start + 2 + len(ids)] = list(map(len, ids))
            head[0] += sum(bool(encoding.overflowing) for encoding in encodings)
            bar.update(len(ids))
    head[1:] = head[1:].cumsum()
    file.seek(0)
    file.write(head)


def encode(tokenizer, texts, stop=()):
    file = io.BytesIO()
    write(file, tokenizer, texts, stop)
    return Tokens(file.getbuffer(), len(texts))


def encode_once(tokenizer, reviews, stop):
    """As `encode`, in a file in the cache of datasets, which the first process writes. OSError."""
    import datasets  # after access.connect

    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    # What is stored there depends on the last call.
    rules |= {"truncation": tokenizer.truncation_side, "padding": None}
    rules = json.dumps([reviews.sha256, rules, tokenizer.model_max_length, tokenizers.__version__])
    folder = Path(datasets.config.HF_DATASETS_CACHE, "tokens")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(rules.encode()).hexdigest()
    with filelock.FileLock(f"{path}.lock"):
        found = next(folder.glob(f"{path.name}-*"), None)
        if not found or not files.is_whole(found):
            with files.staging(path) as staged:
                with open(staged, "wb") as file:
                    write(file, tokenizer, reviews, stop)
                found = files.publish_with_digest(staged, path)
    return Tokens(numpy.memmap(found, mode="r"), len(reviews))


@dataclass
class Encoded:
    """N reviews of a split as the model reads them."""

    split: str
    ids: Tokens
    labels: torch.Tensor  # int64 [N]: class ids
    soft: numpy.ndarray | None  # float32 [N, C]: probabilities, if any
    rows: numpy.ndarray  # int64 [N]: row numbers in their split

    def targets(self, weights, chosen):
        """float32 [B, C] of B reviews: probabilities times `weights` [C] at the likeliest class."""
        labels = self.labels[chosen]
        if self.soft is None:
            rows = torch.nn.functional.one_hot(labels, len(weights))
        else:
            rows = torch.from_numpy(self.soft[chosen])
        return rows * weights[labels][:, None]

    def class_weights(self, kind, classes):
        """float32 [C]: "none" is ones; "balanced" as scikit-learn's, 0 for a class not there."""
        counts = torch.bincount(self.labels, minlength=classes)
        balanced = len(self.labels) / (counts.count_nonzero() * counts)
        return balanced.nan_to_num(posinf=0.0) if kind == "balanced" else torch.ones(classes)


def encode_reviews(tokenizer, reviews, ids, stop=()):
    """data.Reviews -> Encoded. ids: {label: class id}. Raises Stopped for a signal in `stop`."""
    labels = torch.tensor([ids[label] for label in reviews.labels])
    encoded = (encode_once if len(reviews) > LARGE else encode)(tokenizer, reviews, stop)
    return Encoded(reviews.split, encoded, labels, reviews.soft, reviews.rows)
