"""A Hub id, a folder or a file -> labelled reviews, checked and sampled."""

import glob
import hashlib
import json
import math
import random
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from sentiment.errors import UserError, first_line
from sentiment.hub import access
from sentiment.labels import class_names, label_name

READERS = {".csv": "csv", ".csv.gz": "csv", ".jsonl": "json", ".jsonl.gz": "json"}
READERS |= {".parquet": "parquet"}
HELD_OUT = "held out of train"  # in place of test


@dataclass
class Reviews:
    """Labelled texts of one split. rows: their numbers in it, from 0; labels: names of classes."""

    split: str
    rows: list[int]
    texts: list[str]
    labels: list[str]

    def __len__(self):
        return len(self.rows)

    def at(self, positions):
        columns = self.rows, self.texts, self.labels
        return Reviews(self.split, *([column[i] for i in positions] for column in columns))

    def without(self, texts):
        return self.at([i for i, text in enumerate(self.texts) if text not in texts])

    def sample(self, size, seed, at_least=0):
        """`size` of the reviews by `stratified`, or all of them for 0."""
        return self.at(stratified(self.labels, size or len(self), seed, at_least))

    def scored_as(self):
        return HELD_OUT if self.split == "train" else self.split

    def identity(self):
        """What run.json keeps, to find these reviews again and detect changes."""
        digest = hashlib.sha256(json.dumps([self.texts, self.labels]).encode()).hexdigest()
        return {"split": self.split, "rows": self.rows, "sha256": digest}

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
            there = ", ".join(data.column_names)
            raise UserError(f"{flag} {column}: {name} has columns {there}")
    try:
        texts, labels = data[text_column][:], data[label_column][:]
    except ValueError as error:  # Parquet whose strings are not UTF-8
        raise UserError(f"{name}: cannot be read: {first_line(error)}") from error
    wrong = next((text for text in texts if not isinstance(text, str | None)), None)
    if wrong is not None:
        raise UserError(f"--text_column: texts must be strings; {split} has {wrong!r}")
    names = getattr(data.features[label_column], "names", None)
    labels = [label_name(label, names) for label in labels]
    with_text = [row for row, text in enumerate(texts) if text and text.strip()]
    rows = [row for row in with_text if labels[row]]
    reviews = Reviews(split, rows, [texts[row] for row in rows], [labels[row] for row in rows])
    missing = f"{len(texts) - len(with_text):,} without text"
    missing += f", {len(with_text) - len(rows):,} without label"
    left_out = f", dropped: {missing}" if len(rows) < len(texts) else ""
    return reviews, class_names(reviews.labels, names), left_out


def read_split(name, split):
    path = Path(name)
    if not path.exists():
        return access.dataset(name).get(split)
    if not path.is_dir():
        return read_file(path) if split == "train" else None
    paths = [path / (split + end) for end in READERS if (path / (split + end)).exists()]
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
    options, failures = {}, (datasets.exceptions.DatasetGenerationError, ValueError, StopIteration)
    try:
        if reader == "csv":  # types guessed from the first rows may not fit
            columns = pandas.read_csv(path, nrows=0).columns
            options = {"keep_default_na": False, "converters": dict.fromkeys(columns, str)}
        paths = [glob.escape(str(path))]
        data = datasets.load_dataset(reader, data_files=paths, split="train", **options)
    except (*failures, OSError, EOFError, zlib.error) as error:
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
        return list(range(len(labels)))
    members = defaultdict(list)
    for position, label in enumerate(labels):
        members[label].append(position)
    places = sorted(
        (k >= at_least, -len(positions) / (2 * k + 1), order, label)
        for order, (label, positions) in enumerate(members.items())
        for k in range(len(positions))
    )
    sample = []
    for label, count in Counter(label for *_, label in places[:size]).items():
        sample += random.Random(f"{seed}/{label}").sample(members[label], count)
    return sorted(sample)


def load_train_and_test(args):
    """(train: Reviews, test: Reviews, names of the classes, lines of a report). UserError."""
    name, columns = args.dataset_name, (args.text_column, args.label_column)
    train, names, left_out = load_split(name, "train", *columns)
    test, _, test_left_out = load_split(name, "test", *columns)
    if train is None:
        raise UserError(f"{name}: no training split, such as train.csv in a folder")
    report = [f"train: {train.summary()}{left_out}"]
    if test is None:
        size = math.ceil(0.1 * len(train))
        test = train.at(stratified(train.labels, size, f"{args.seed}/cut off"))
        rows = set(test.rows)
        train = train.at([i for i, row in enumerate(train.rows) if row not in rows])
        report += [f"test:  none; {size:,} reviews (10%) are held out of train"]
    else:
        report += [f"test:  {test.summary()}{test_left_out}"]
        if unknown := ", ".join(sorted(set(test.labels) - set(train.labels))):
            raise UserError(f"{name}: the test split has labels that train lacks: {unknown}")

    before = len(train)
    train = train.without(set(test.texts))
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
    return train, test, names, report
