"""Labelled reviews, from where the user keeps them: checked and sampled."""

import hashlib
import heapq
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy
import pyarrow

from sentiment import labels as rules
from sentiment.errors import UserError, first_line
from sentiment.hub import checks, source
from sentiment.tokens import LARGE, join

HELD_OUT = "held out of train"  # in place of test
BY_SETTINGS = "sampled by the settings"  # in place of the row numbers of a large sample
NO_SPLIT = "none"  # for --test_split_name
MIXED = pyarrow.JsonType  # a column of JSON with several types
# The settings that name the data: (default, help).
FLAGS = {
    "dataset_config_name": (None, "configuration of a data set on the Hub, or subfolder"),
    "dataset_revision": ("main", "branch, tag or commit of a data set on the Hub"),
    "train_split_name": ("train", "split to train on"),
    "validation_split_name": ("validation", "split to score if test has no labels; or none"),
    "test_split_name": ("test", "split to score; or none"),
    "text_column": ("text", "text column, or several to join by a space: title,body"),
    "label_column": ("label", "label column: integers or strings"),
    "label_map": ({}, "names of labels, such as 0=negative,1=positive"),
}
DEFAULTS = {name: default for name, (default, _) in FLAGS.items()}


@dataclass
class Reviews(Sequence):
    """Labelled texts of one split: reviews[i] is a text, reviews[i:j] a list of texts."""

    split: str
    columns: dict  # {name: pyarrow.ChunkedArray} that make up a text, perhaps mapped from a file
    rows: numpy.ndarray  # int64: the reviews' row numbers, from 0
    labels: numpy.ndarray  # their classes' names
    commit: str | None = None  # of the data set on the Hub

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return list(map(self.text, self.rows[index].tolist()))
        return self.text(int(self.rows[index]))

    def text(self, row):
        return join(column[row].as_py() for column in self.columns.values())

    def at(self, positions):
        return replace(self, rows=self.rows[positions], labels=self.labels[positions])

    @cached_property
    def hashes(self):
        """int64, one of each text."""
        return numpy.fromiter(map(hash, self), numpy.int64, len(self))

    def without(self, others):
        """Those whose text is not among `others`. Compares hashes first, to save memory."""
        found = numpy.isin(self.hashes, others.hashes)
        known = set(self.at(found)).intersection(others)
        found[found] = [text in known for text in self.at(found)]
        return self.at(~found)

    def sample(self, size, seed, at_least=0):
        """`size` of the reviews by `stratified`, or all of them for 0."""
        return self.at(stratified(self.labels, size or len(self), seed, at_least))

    def identity(self):
        """What run.json keeps, to find these reviews again and detect changes."""
        whole = len(self) == len(next(iter(self.columns.values())))
        rows = "all" if whole else BY_SETTINGS if len(self) > LARGE else self.rows.tolist()
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
        classes = [f"{rules.some([label])}: {count:,}" for label, count in counts[:10]]
        classes += [f"{len(counts) - 10:,} more classes"] * (len(counts) > 10)
        return f"{len(self):,} reviews ({', '.join(classes)})"


def load_split(settings, split, known=()):
    """One split of the data that `settings` name. Raises UserError. Returns (Reviews, or None if
    there is no such split; names of the classes by id; lines for a report).

    known: class names; a label that differs from one in case only is read as that.
    """
    found = source.read(settings, split)
    if found is None:
        return None, [], []
    rows, where, note, commit = found
    text_columns, label_column = choose_columns(settings, rows.column_names, where)
    table, names = rows.with_format("arrow")[:], getattr(rows.features[label_column], "names", None)
    try:
        columns = {name: as_texts(table[name], f"{where}, column {name}") for name in text_columns}
        parts = zip(*map(values, columns.values()), strict=True)
        with_text = numpy.fromiter((bool(join(each)) for each in parts), bool, len(table))
        codes, labels = encode(table[label_column], names, f"{where}, column {label_column}")
    # Strings that are not UTF-8; a number without a name.
    except (ValueError, IndexError) as error:
        raise UserError(f"{where}: cannot be read: {first_line(error)}") from error
    by_count = (-numpy.bincount(codes, minlength=len(labels))).argsort(kind="stable")
    read, classes = rules.read([labels[i] for i in by_count], names, settings.label_map, known)
    named = numpy.array([read[label] for label in labels], object)[codes]
    usable = with_text & (named != "")
    report = [note] if note else []
    if not usable.all():
        no_text, no_label = (~with_text).sum(), (with_text & ~usable).sum()
        report += [f"dropped: {no_text:,} without text, {no_label:,} without label"]
    report += checks.respelled(label_column, codes, labels, read, settings.label_map)
    if rows.info.builder_name == "csv":
        report += checks.stray_quotes(columns, labels)
    reviews = Reviews(split, columns, numpy.flatnonzero(usable), named[usable], commit)
    return reviews, classes, report


def choose_columns(settings, there, where):
    """([text columns], label column): `title,body` are two, unless one has that name. UserError."""
    text, label = settings.text_column, settings.label_column
    texts = [text] if text in there else [name.strip() for name in text.split(",")]
    wrong = [f"--text_column {text}"] if not set(texts) <= set(there) else []
    wrong += [f"--label_column {label}"] if label not in there else []
    if wrong:
        raise UserError(f"{' and '.join(wrong)}: {where} has columns {rules.some(there, 20)}")
    return texts, label


def values(column):
    """The values of an Arrow column, with one chunk in memory at a time."""
    return (value for chunk in column.chunks for value in chunk.to_pylist())


def as_texts(column, where):
    """The column as large_string. Raises UserError."""
    first = next((value for value in values(column) if value is not None), "")
    if not isinstance(first, str) or isinstance(column.type, MIXED):
        found = rules.some([repr(first)])
        raise UserError(f"{where}: texts must all be strings, unlike {found}; see --text_column")
    return column.cast(pyarrow.large_string())


def encode(column, names, where):
    """(A code for each row, the different labels by code; the last is None). Raises UserError.

    names: a ClassLabel's, which takes the place of numbers.
    """
    if pyarrow.types.is_nested(column.type) or isinstance(column.type, MIXED):
        found = f"unlike {rules.some([repr(column[0].as_py())])}; see --label_column"
        raise UserError(f"{where}: labels must be all integers or all strings, {found}")
    encoded = column.dictionary_encode().combine_chunks()
    labels = encoded.dictionary.to_pylist()
    labels = [names[i] if i >= 0 else None for i in labels] if names else labels
    codes = encoded.indices.fill_null(len(labels)).to_numpy(zero_copy_only=False)
    return codes, [*labels, None]


def stratified(labels, size, seed, at_least=0):
    """Ascending positions of `size` reviews, or all. Classes keep their proportions (Sainte-Laguë's
    method), after `at_least` places for each.
    """
    if size >= len(labels):
        return numpy.arange(len(labels))
    import pandas  # late, as in source.read_files

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


def scored_as(split, settings):
    return HELD_OUT if split == settings.train_split_name else split


def load_train_and_test(settings):
    """({"train": Reviews, "eval": Reviews}, names of the classes, lines of a report). UserError."""
    name, split = settings.dataset_name, settings.train_split_name
    train, classes, notes = load_split(settings, split)
    if train is None:
        raise UserError(f"{name}: no split {split}; {source.describe(settings)}")
    report = [f"{split}: {train.summary()}", *notes]
    checks.check_labels(train, settings)
    report += checks.contradictions(train)
    test, notes = load_test(settings, classes)
    report += notes
    if test is None:
        size = math.ceil(0.1 * len(train))
        test = train.sample(size, f"{settings.seed}/cut off")
        train = train.at(~numpy.isin(train.rows, test.rows))
        others = sorted(source.splits(settings).keys() - {split, split.lower()})
        unused = f"; not used: {', '.join(others)}" if others else ""
        report += [f"{size:,} reviews (10%) are held out of {split} to score{unused}"]

    before = len(train)
    train = train.without(test)
    if dropped := before - len(train):
        report += [f"{dropped:,} training reviews have the text of a scored one and are dropped"]
    for each in (train, test):
        if not each:
            raise UserError(f"{name}: no review is left in {each.split} ({'; '.join(report)})")
    sizes = len(train), len(test)
    train = train.sample(settings.max_train_samples, f"{settings.seed}/train", at_least=1)
    test = test.sample(settings.max_eval_samples, f"{settings.seed}/test")
    if len(set(train.labels)) < 2:
        way = "; see --max_train_samples" if len(train) < sizes[0] else ""
        raise UserError(f"{name}: training needs two classes or more, not {train.summary()}{way}")
    used = [f"{len(part):,} of {size:,}" for part, size in zip((train, test), sizes, strict=True)]
    report += [f"used: {used[0]} reviews to train, {used[1]} to score"]
    return {"train": train, "eval": test}, classes, report


def load_test(settings, classes):
    """The test split, or the validation split where that is missing or has no labels.

    Returns (Reviews or None, lines of a report). Raises UserError.
    """
    report = []
    for flag in ("test_split_name", "validation_split_name"):
        split = getattr(settings, flag)
        if split == NO_SPLIT:
            continue
        try:
            test, _, notes = load_split(settings, split, classes)
        except UserError as error:
            raise UserError(f"{error} (--{flag} {NO_SPLIT} leaves it out)") from error
        if test is None and split != DEFAULTS[flag]:
            raise UserError(f"--{flag} {split}: no such split; {source.describe(settings)}")
        if test is None:
            continue
        unknown = set(test.labels) - set(classes)
        if not test or unknown == {"-1"} == set(test.labels):
            report += [f"{split}: no labels, not used"]
            continue
        if unknown:
            reason = f"the split {split} has labels that {settings.train_split_name} lacks"
            raise UserError(f"{settings.dataset_name}: {reason}: {rules.some(sorted(unknown))}")
        return test, [*report, f"{split}: {test.summary()}", *notes]
    return None, report
