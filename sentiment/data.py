"""A Hub id, a folder or a file -> labelled reviews, checked and sampled."""

import glob
import hashlib
import heapq
import itertools
import json
import math
import random
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy
import pyarrow

from sentiment.errors import UserError, first_line
from sentiment.hub import access
from sentiment.labels import class_names, label_name
from sentiment.tokens import LARGE

READERS = {".csv": "csv", ".csv.gz": "csv", ".jsonl": "json", ".jsonl.gz": "json"}
READERS |= {".parquet": "parquet"}
HELD_OUT = "held out of train"  # in place of test
BY_SETTINGS = "sampled by the settings"  # in place of the row numbers of a large sample


@dataclass
class Reviews(Sequence):
    """Labelled texts of one split: reviews[i] is a text, reviews[i:j] a list of texts."""

    split: str
    column: pyarrow.ChunkedArray  # all texts of the split, perhaps mapped from a file
    rows: numpy.ndarray  # int64: the reviews' row numbers, from 0
    labels: numpy.ndarray  # their classes' names

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.column[row].as_py() for row in self.rows[index].tolist()]
        return self.column[int(self.rows[index])].as_py()

    def at(self, positions):
        return Reviews(self.split, self.column, self.rows[positions], self.labels[positions])

    def without(self, others):
        """Those whose text is not among the texts of `others`, of which it keeps only hashes."""
        hashes = set(map(hash, others))
        suspects = [i for i, text in enumerate(self) if hash(text) in hashes]
        known, kept = {self[i] for i in suspects}.intersection(others), numpy.ones(len(self), bool)
        kept[[i for i in suspects if self[i] in known]] = False
        return self.at(kept)

    def sample(self, size, seed, at_least=0):
        """`size` of the reviews by `stratified`, or all of them for 0."""
        return self.at(stratified(self.labels, size or len(self), seed, at_least))

    def identity(self):
        """What run.json keeps, to find these reviews again and detect changes."""
        whole, large = len(self) == len(self.column), len(self) > LARGE
        rows = "all" if whole else BY_SETTINGS if large else self.rows.tolist()
        return {"split": self.split, "rows": rows, "reviews": len(self), "sha256": self.sha256}

    @cached_property
    def sha256(self):
        """Of json.dumps([texts, labels])."""
        digest = hashlib.sha256()
        for before, words in (("[[", self), ("], [", self.labels)):
            for word in words:
                digest.update((before + json.dumps(word)).encode())
                before = ", "
        digest.update(b"]]")
        return digest.hexdigest()

    def summary(self):
        """For example "100 reviews (negative: 50, positive: 50)"."""
        counts = sorted(Counter(self.labels).items())
        classes = ", ".join(f"{label}: {count:,}" for label, count in counts)
        return f"{len(self):,} reviews ({classes})"


def load_split(name, split, text_column="text", label_column="label"):
    """One split of a Hub id, of a folder (its file of that name), or of a file ("train" only).

    Returns (Reviews, or None; names of the classes by id; what was dropped, as text). UserError.
    """
    data = read_split(name, split)
    if data is None:
        return None, [], ""
    for flag, column in (("--text_column", text_column), ("--label_column", label_column)):
        if column not in data.column_names:
            raise UserError(f"{flag} {column}: {name} has columns {', '.join(data.column_names)}")
    table = data.with_format("arrow")[:]
    names = getattr(data.features[label_column], "names", None)
    column = table[text_column]
    try:
        # Interned: one object per class.
        found = (sys.intern(label_name(label, names)) for label in values(table[label_column]))
        labels = numpy.fromiter(found, object, len(table))
        first = next((text.as_py() for text in column if text.is_valid), "")
        if not isinstance(first, str):  # all are of one type
            raise UserError(f"--text_column: texts must be strings; {split} has {first!r}")
        column = column.cast(pyarrow.large_string())
        found = (bool(text and text.strip()) for text in values(column))
        with_text = numpy.fromiter(found, bool, len(table))
    except ValueError as error:  # Parquet whose strings are not UTF-8
        raise UserError(f"{name}: cannot be read: {first_line(error)}") from error
    usable = with_text & (labels != "")
    reviews = Reviews(split, column, numpy.flatnonzero(usable), labels[usable])
    no_text, no_label = (~with_text).sum(), (with_text & ~usable).sum()
    left_out = f", dropped: {no_text:,} without text, {no_label:,} without label"
    return reviews, class_names(reviews.labels, names), "" if usable.all() else left_out


def values(column):
    """Those of an Arrow column, a chunk in memory at a time."""
    return (value for chunk in column.chunks for value in chunk.to_pylist())


def read_split(name, split):
    path = Path(name)
    if not path.exists():
        return access.dataset(name).get(split)
    if not path.is_dir():
        return read_file(path) if split == "train" else None
    paths = [file for end in READERS if (file := path / f"{split}{end}").exists()]
    if len(paths) > 1:
        raise UserError(f"{name}: remove {paths[0].name} or {paths[1].name}")
    return read_file(paths[0]) if paths else None


def read_file(path):
    """The datasets.Dataset in a file. CSV fields stay strings, "NA" and "007" included."""
    import pandas  # as late as datasets, which brings it

    datasets = access.quiet_datasets()
    reader = next((READERS[end] for end in READERS if path.name.endswith(end)), None)
    if not reader:
        raise UserError(f"{path}: unknown file type; supported: {', '.join(READERS)}")
    options, failure = {}, datasets.exceptions.DatasetGenerationError
    try:
        if reader == "csv":  # types guessed from the first rows may not fit
            columns = pandas.read_csv(path, nrows=0).columns
            options = {"keep_default_na": False, "converters": dict.fromkeys(columns, str)}
        paths = [glob.escape(str(path))]
        data = datasets.load_dataset(reader, data_files=paths, split="train", **options)
    except (failure, OSError, EOFError, StopIteration, ValueError, zlib.error) as error:
        cause = error.__cause__ or error
        if type(cause) is OSError and cause.errno:  # a full disk
            raise cause from None
        empty = "no data" in str(cause) or not str(cause)
        reason = "no rows" if empty else first_line(cause)
        hint = " (save it as UTF-8)" if isinstance(cause, UnicodeDecodeError) else ""
        raise UserError(f"{path}: cannot be read as {reader}: {reason}{hint}") from error
    if reader == "csv" and any(name.startswith("__index_level_") for name in data.column_names):
        raise UserError(f"{path}: rows have more fields than the header (quote the texts)")
    return data


def stratified(labels, size, seed, at_least=0):
    """Ascending positions of `size` reviews, or all. Classes keep their proportions (Sainte-Laguë's
    method), after `at_least` places for each.
    """
    if size >= len(labels):
        return numpy.arange(len(labels))
    import pandas  # late, as in read_file

    codes, names = pandas.factorize(labels)  # in the order of their first appearance
    ends = numpy.bincount(codes).cumsum()
    members = dict(zip(names, numpy.split(codes.argsort(kind="stable"), ends), strict=False))

    def places(label):  # in the order in which they are given away
        count = len(members[label])
        return ((k >= at_least, -count / (2 * k + 1), label) for k in range(count))

    merged = heapq.merge(*map(places, members), key=lambda place: place[:2])
    shares = Counter(label for *_, label in itertools.islice(merged, size))
    sample = [
        positions[random.Random(f"{seed}/{label}").sample(range(len(positions)), shares[label])]
        for label, positions in members.items()
    ]
    return numpy.sort(numpy.concatenate(sample))


def scored_as(split):
    return HELD_OUT if split == "train" else split


def load_train_and_test(args):
    """({"train": Reviews, "eval": Reviews}, names of the classes, lines of a report). UserError."""
    name, columns = args.dataset_name, (args.text_column, args.label_column)
    train, names, left_out = load_split(name, "train", *columns)
    test, _, test_left_out = load_split(name, "test", *columns)
    if train is None:
        raise UserError(f"{name}: no training split, such as train.csv in a folder")
    report = [f"train: {train.summary()}{left_out}"]
    if test is None:
        size = math.ceil(0.1 * len(train))
        test = train.sample(size, f"{args.seed}/cut off")
        train = train.at(~numpy.isin(train.rows, test.rows))
        report += [f"test:  none; {size:,} reviews (10%) are held out of train"]
    else:
        report += [f"test:  {test.summary()}{test_left_out}"]
        if unknown := ", ".join(sorted(set(test.labels) - set(train.labels))):
            raise UserError(f"{name}: the test split has labels that train lacks: {unknown}")

    before = len(train)
    train = train.without(test)
    if dropped := before - len(train):
        report += [f"{dropped:,} training reviews also appear in the test split and are dropped"]
    for split, reviews in (("train", train), ("test", test)):
        if not reviews:
            raise UserError(f"{name}: no review is left in {split} ({'; '.join(report)})")
    train = train.sample(args.max_train_samples, f"{args.seed}/train", at_least=1)
    test = test.sample(args.max_eval_samples, f"{args.seed}/test")
    if len(set(train.labels)) < 2:
        left = f"{train.summary()} left; see --max_train_samples"
        raise UserError(f"{name}: training needs at least two classes; {left}")
    report += [f"used:  {train.summary()} to train, {test.summary()} to score"]
    return {"train": train, "eval": test}, names, report
