"""Labelled reviews, from where the user keeps them: checked and sampled. Raises UserError."""

import functools
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
import pandas
import pyarrow

from sentiment import labels as rules
from sentiment.columns import join, of_text
from sentiment.errors import UserError, first_line
from sentiment.hub import checks, soft, source
from sentiment.tokens import LARGE

HELD_OUT = "held out of train"  # in place of test
BY_SETTINGS = "sampled by the settings"  # in place of the row numbers of a large sample
PURPOSES = {"train": "reviews to train", "validation": "to validate", "eval": "to score"}
NO_SPLIT = "none"  # for --test_split_name
MIXED = pyarrow.JsonType  # a column of JSON with several types
# The settings that name the data: (default, help).
FLAGS = {
    "dataset_config_name": (None, "configuration of a data set on the Hub, or subfolder"),
    "dataset_revision": ("main", "branch, tag or commit of a data set on the Hub"),
    "train_split_name": ("train", "split to train on"),
    "validation_split_name": ("validation", "split to score after each epoch; or none"),
    "test_split_name": ("test", "split to score in the end; or none"),
    "text_column": ("text", "text column, or several to join by a space: title,body"),
    "label_column": ("label", "label column: integers, strings or {name: probability}"),
    "label_map": ({}, "names of labels, such as 0=negative,1=positive"),
}
DEFAULTS = {name: default for name, (default, _) in FLAGS.items()}


@dataclass
class Reviews(Sequence):
    """Labelled texts of one split: reviews[i] is a text, reviews[i:j] a list of texts."""

    split: str
    columns: dict  # {name: pyarrow.ChunkedArray} that make up a text, perhaps mapped from a file
    rows: numpy.ndarray  # int64: the reviews' row numbers, from 0
    labels: numpy.ndarray  # their classes' names; of soft labels, the most probable
    commit: str | None = None  # of the data set on the Hub
    soft: numpy.ndarray | None = None  # float32 [N, C]: the classes' probabilities, if given

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return list(map(self.text, self.rows[index].tolist()))
        return self.text(int(self.rows[index]))

    def text(self, row):
        return join(column[row].as_py() for column in self.columns.values())

    def at(self, positions):
        soft = None if self.soft is None else self.soft[positions]
        return replace(self, rows=self.rows[positions], labels=self.labels[positions], soft=soft)

    @functools.cached_property
    def hashes(self):
        """int64, one of each text."""
        return numpy.fromiter(map(hash, self), numpy.int64, len(self))

    def without(self, others):
        """Those whose text is not among `others`, by hashes of 64 bits, to save memory."""
        return self.at(~numpy.isin(self.hashes, others.hashes))

    def sample(self, size, seed, at_least=0):
        """`size` of the reviews by `stratified`, or all of them for 0."""
        return self.at(stratified(self.labels, size or len(self), seed, at_least))

    def identity(self):
        """What run.json keeps, to find these reviews again and detect changes."""
        whole = len(self) == len(next(iter(self.columns.values())))
        rows = "all" if whole else BY_SETTINGS if len(self) > LARGE else self.rows.tolist()
        return {"split": self.split, "rows": rows, "reviews": len(self), "sha256": self.sha256}

    @functools.cached_property
    def sha256(self):
        """Of json.dumps([texts, labels]), or of [texts, labels, soft labels]."""
        soft_labels = [] if self.soft is None else self.soft.tolist()
        digest = hashlib.sha256()
        for before, words in (("[[", self), ("], [", self.labels), ("], [", soft_labels)):
            for word in words:
                digest.update((before + json.dumps(word)).encode())
                before = ", "
        digest.update(b"]]")
        return digest.hexdigest()

    def summary(self):
        """For example "100 reviews (negative: 50, positive: 50)"."""
        counts = sorted(Counter(self.labels).items())
        classes = [f"{rules.some([label])}: {count:,}" for label, count in counts]
        more = [f"{len(counts) - 10:,} more classes"] * (len(counts) > 10)
        return f"{len(self):,} reviews ({', '.join(classes[:10] + more)})"


def load_split(settings, split, known=()):
    """One split of the data that `settings` name: (Reviews, or None if there is no such split;
    names of the classes by id; lines for a report).

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
        place = f"{where}, column {label_column}"
        codes, labels, given = encode(table[label_column], names, place)
    # Strings that are not UTF-8; a number without a name.
    except (ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{where}: cannot be read: {first_line(error)}") from error
    by_count = (-numpy.bincount(codes, minlength=len(labels))).argsort(kind="stable")
    read, classes = rules.read([labels[i] for i in by_count], names, settings.label_map, known)
    named, probabilities = numpy.array([read[label] for label in labels], object)[codes], None
    if given is not None:
        named, probabilities = soft.by_class(named, given, read, classes, place)
    usable = with_text & (named != "")
    report = [note] if note else []
    if not usable.all():
        no_text, no_label = (~with_text).sum(), (with_text & ~usable).sum()
        report += [f"dropped: {no_text:,} without text, {no_label:,} without label"]
    report += checks.respelled(label_column, codes, labels, read, settings.label_map)
    if rows.info.builder_name == "csv":
        report += checks.stray_quotes(columns, labels)
    rows = numpy.arange(len(table))
    reviews = Reviews(split, columns, rows, named, commit, probabilities).at(usable)
    return reviews, classes, report


def choose_columns(settings, there, where):
    """([text columns], label column), all there."""
    text, label = settings.text_column, settings.label_column
    texts = of_text(text, there)
    wanted = {f"--text_column {text}": texts, f"--label_column {label}": [label]}
    if wrong := [flag for flag, names in wanted.items() if not set(names) <= set(there)]:
        found = f"{rules.some(there, 20)} (CSV: its first line; JSON: each object's keys)"
        raise UserError(f"{' and '.join(wrong)}: {where} has columns {found}")
    return texts, label


def values(column):
    """The values of an Arrow column, with one chunk in memory at a time."""
    return (value for chunk in column.chunks for value in chunk.to_pylist())


def as_texts(column, where):
    found = (value for value in values(column) if value is not None)
    if mixed := isinstance(column.type, MIXED):  # values are JSON, one of them is no string
        found = (value for value in found if value[0] != '"')
    if not isinstance(first := next(found, ""), str) or mixed:
        way = "see --text_column (JSON: an object for each review)"
        raise UserError(f"{where}: texts must be strings, unlike {rules.some([str(first)])}; {way}")
    return column.cast(pyarrow.large_string())


def encode(column, names, where):
    """(A code for each row; the different labels by code, the last of which is None; probabilities
    by soft.read, or None). Also raises ValueError.

    names: a ClassLabel's, which takes the place of numbers.
    """
    if pyarrow.types.is_nested(column.type) or isinstance(column.type, MIXED):
        return soft.read(values(column), where)
    encoded = column.dictionary_encode().combine_chunks()
    labels = encoded.dictionary.to_pylist()
    if any(map(soft.is_object, labels)):
        return soft.read(values(column), where)
    labels = [names[i] if i >= 0 else None for i in labels] if names else labels
    codes = encoded.indices.fill_null(len(labels)).to_numpy(zero_copy_only=False)
    return codes, [*labels, None], None


def stratified(labels, size, seed, at_least=0):
    """Ascending positions of `size` reviews, or all. Classes keep their proportions (Sainte-Laguë's
    method), after `at_least` places for each.
    """
    if size >= len(labels):
        return numpy.arange(len(labels))
    classes = pandas.Series(labels).groupby(labels, sort=False)
    k, count = classes.cumcount(), classes.transform("size")
    keys = classes.ngroup(), -count / (2 * k + 1), k >= at_least  # the last comes first
    shares = Counter(labels[numpy.lexsort(keys)[:size]])
    sample = [
        positions[random.Random(f"{seed}/{label}").sample(range(len(positions)), shares[label])]
        for label, positions in classes.indices.items()
    ]
    return numpy.sort(numpy.concatenate(sample))


def load_train_and_test(settings, selects=False):
    """({"train": Reviews, "eval": Reviews}, names of the classes, lines of a report).

    "eval": test; else validation, unless `selects`; else 10% of train. "validation": that split,
    unless it is "eval". selects: it chooses an epoch, so it must be there.
    """
    name, split = settings.dataset_name, settings.train_split_name
    train, classes, notes = load_split(settings, split)
    if train is None:
        raise UserError(f"{name}: no split {split}; {source.describe(settings)}")
    report = [f"{split}: {train.summary()}", *notes]
    checks.check_labels(train, settings)
    report += checks.contradictions(train)
    parts, notes = load_scored(settings, classes)
    report += notes
    if list(parts) == ["validation"] and not selects:
        parts = {"eval": parts["validation"]}
    if "eval" not in parts:
        size = math.ceil(0.1 * len(train))
        test = train.sample(size, f"{settings.seed}/cut off")
        train = train.at(~numpy.isin(train.rows, test.rows))
        report += [f"{size:,} reviews (10%) are held out of {split} to score"]
        parts = {"eval": test, **parts}

    asked = {split, settings.test_split_name, settings.validation_split_name}
    if unused := sorted(source.splits(settings).keys() - asked - set(map(str.lower, asked))):
        report += [f"not used: {', '.join(unused)}"]
    left = {}
    for part, reviews in {**parts, "train": train}.items():
        left[part] = functools.reduce(Reviews.without, left.values(), reviews)
        if dropped := len(reviews) - len(left[part]):
            report += [f"{reviews.split}: dropped {dropped:,} whose text is also scored"]
    if selects and not left.get("validation"):
        flags = "--load_best_model_at_end and --early_stopping_patience"
        way = "need a validation split; give --validation_split_name, other than test"
        raise UserError(f"{name}: {flags} {way}; {source.describe(settings)} ({'; '.join(report)})")
    if not left["train"]:
        raise UserError(f"{name}: no review is left in {split} ({'; '.join(report)})")
    left = {part: reviews for part, reviews in left.items() if reviews}
    return sampled(left, settings, report), classes, report


def load_scored(settings, classes):
    """({"eval": test, "validation": Reviews}, lines of a report): those there that have labels."""
    found, report = {}, []
    for part, flag in (("eval", "test_split_name"), ("validation", "validation_split_name")):
        split = getattr(settings, flag)
        if split in (NO_SPLIT, *(each.split for each in found.values())):
            continue
        try:
            reviews, _, notes = load_split(settings, split, classes)
            labels = set() if reviews is None else set(reviews.labels)
            unknown = labels - set(classes)
            if unknown and labels != {"-1"}:
                reason = f"{split} has labels that {settings.train_split_name} lacks"
                raise UserError(f"{settings.dataset_name}: {reason}: {rules.some(sorted(unknown))}")
        except UserError as error:
            raise UserError(f"{error} (--{flag} {NO_SPLIT} leaves it out)") from error
        if reviews and not unknown:
            found[part] = reviews
            report += [f"{split}: {reviews.summary()}", *notes, *checks.contradictions(reviews)]
        elif reviews is not None:
            report += [f"{split}: no labels, not used"]
        elif split != DEFAULTS[flag]:
            raise UserError(f"--{flag} {split}: no such split; {source.describe(settings)}")
    return found, report


def sampled(parts, settings, report):
    """Samples of the sizes that `settings` ask for. Extends the report."""
    samples, used = {}, []
    for part, reviews in reversed(parts.items()):  # train first
        train = part == "train"
        size = settings.max_train_samples if train else settings.max_eval_samples
        seed = f"{settings.seed}/{part}".replace("eval", "test")  # as in older versions
        samples[part] = sample = reviews.sample(size, seed, at_least=int(train))
        used += [f"{len(sample):,} of {len(reviews):,} {PURPOSES[part]}"]
    train = samples["train"]
    if len(set(train.labels)) < 2:
        way = "; see --max_train_samples" if len(train) < len(parts["train"]) else ""
        few = f"training needs two classes or more, not {train.summary()}{way}"
        raise UserError(f"{settings.dataset_name}: {few}")
    report += [f"used: {', '.join(used)}"]
    return samples
