"""A Hub id, a folder or a file -> labelled reviews; checks, subsets, tokens."""

import functools
import glob
import hashlib
import json
import math
import random
import re
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import HTTPError

from sentiment import hub
from sentiment.cli import UserError, first_line

READERS = {".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}
COMPRESSED = (".csv.gz", ".jsonl.gz")
READABLE_NAMES = {"neg": "negative", "pos": "positive"}
HELD_OUT = "held out of train"
CUT_OFF = 0.1  # share of the reviews that becomes the test split where there is none


@dataclass
class Reviews:
    """Labelled texts of one split. `rows` are their numbers, from 0, in the split; `labels` are names of classes."""

    split: str
    rows: list[int]
    texts: list[str]
    labels: list[str]

    def __len__(self):
        return len(self.rows)

    def at(self, positions):
        """The reviews at these positions, in this order."""
        return Reviews(self.split, *([column[i] for i in positions] for column in (self.rows, self.texts, self.labels)))

    def identity(self):
        """What run.json keeps of them: enough to find the very same reviews again, and to notice if they changed."""
        digest = hashlib.sha256(json.dumps([self.texts, self.labels]).encode()).hexdigest()
        return {"split": self.split, "rows": self.rows, "sha256": digest}

    def summary(self):
        """Such as "100 reviews (50 negative, 50 positive)"."""
        classes = ", ".join(f"{count:,} {label}" for label, count in sorted(Counter(self.labels).items()))
        return f"{len(self):,} reviews ({classes})"


def load_split(name, split, text_column="text", label_column="label"):
    """One split of a Hub id, of a folder (its file train, validation or test) or of a single file ("train" only).

    Reviews without a text or a label are left out. Returns (Reviews or None if there is no such split, the names of
    the classes in the order of their ids, {"text": n, "label": n} of what was left out). Raises UserError.
    """
    path = Path(name)
    if path.is_dir():
        endings = [*READERS, *COMPRESSED]
        files = [path / (split + ending) for ending in endings if (path / (split + ending)).exists()]
        if len(files) > 1:
            raise UserError(f"{name}: both {files[0].name} and {files[1].name}; leave one file for {split}")
        data = read_file(files[0]) if files else None
    elif path.exists():
        data = read_file(path) if split == "train" else None
    else:
        data = read_hub(name).get(split)
    if data is None:
        return None, [], {}

    for flag, column in (("--text_column", text_column), ("--label_column", label_column)):
        if column not in data.column_names:
            raise UserError(f"{flag} {column}: {name} has the columns {', '.join(data.column_names)}")
    try:
        texts, labels = data[text_column][:], data[label_column][:]
    except ValueError as error:  # in Parquet, strings that are none
        raise UserError(f"{name}: cannot be read: {first_line(error)}") from error
    return labelled(split, texts, labels, data.features[label_column])


def quiet_datasets():
    """The datasets library. Imported late: predict.py does without, and hub.connect may set HF_HUB_OFFLINE before."""
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    return datasets


@functools.cache  # for its several splits
def read_hub(name):
    """{split: datasets.Dataset} of a data set on the Hub, or of the cache if HF_HUB_OFFLINE is set."""
    datasets = quiet_datasets()
    try:
        return datasets.load_dataset(name)
    except (datasets.exceptions.DatasetGenerationError, HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ or error
        if type(cause) is OSError:  # a full disk, say
            raise cause from None
        raise UserError(hub.unavailable(name, cause, "sample/reviews")) from error


def commit_of(name):
    """The commit of a data set on the Hub that was read; None for a folder or a file."""
    if Path(name).exists():
        return None
    files = next(iter(read_hub(name).values())).cache_files
    return Path(files[0]["filename"]).parent.name if files else None  # the cache names its folders so


def read_file(path):
    """The datasets.Dataset in one file. CSV fields stay the strings they are, "NA", "null" and "007" too."""
    import pandas  # here, as datasets is, and by which it comes

    datasets = quiet_datasets()
    if path.name.endswith(COMPRESSED):
        reader = READERS[Path(path.stem).suffix]
    elif path.suffix in READERS:
        reader = READERS[path.suffix]
    else:
        raise UserError(f"{path}: cannot read this kind of file; {', '.join([*READERS, *COMPRESSED])} are possible")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty; a column of texts and one of labels are needed")
    options = {}
    try:
        if reader == "csv":  # all columns as they are: types guessed from the first rows may not fit the others
            columns = pandas.read_csv(path, nrows=0).columns
            options = {"keep_default_na": False, "converters": dict.fromkeys(columns, str)}
        data = datasets.load_dataset(reader, data_files=[glob.escape(str(path))], split="train", **options)
    except (
        datasets.exceptions.DatasetGenerationError,
        ValueError,
        StopIteration,
        OSError,
        EOFError,
        zlib.error,
    ) as error:
        cause = error.__cause__ or error
        if type(cause) is OSError and cause.errno:  # a full disk, say; pyarrow's for a damaged file have no number
            raise cause from None
        reason = "it has no rows" if "no data" in str(cause) else first_line(cause)
        hint = " (save it as UTF-8)" if isinstance(cause, UnicodeDecodeError) else ""
        raise UserError(f"{path}: cannot be read as {reader}: {reason}{hint}") from error
    if reader == "csv" and any(column.startswith("__index_level_") for column in data.column_names):
        raise UserError(f"{path}: cannot be read as csv: rows have more fields than the header (quote the texts)")
    return data


def labelled(split, texts, labels, feature):
    """Columns as they were read -> what load_split returns. `feature` is the label column's datasets feature."""
    wrong = next((text for text in texts if text is not None and not isinstance(text, str)), None)
    if wrong is not None:
        raise UserError(f"--text_column: strings are needed, {split} has {wrong!r}")
    labels = [label_name(label, getattr(feature, "names", None)) for label in labels]
    has_text = [bool(text and text.strip()) for text in texts]
    rows = [row for row, label in enumerate(labels) if has_text[row] and label]
    left_out = {"text": has_text.count(False), "label": sum(map(bool, has_text)) - len(rows)}
    reviews = Reviews(split, rows, [texts[row] for row in rows], [labels[row] for row in rows])
    return reviews, class_names(reviews.labels, getattr(feature, "names", None)), left_out


def label_name(label, names=None):
    """The name people read of a label, or "" if it is missing: None, nan, an empty string, a negative ClassLabel.

    `names` are a ClassLabel's. 1 and 1.0 are both "1": a column of integers with gaps is often written as floats.
    """
    if label is None or label != label or (names and label < 0):
        return ""
    if isinstance(label, (list, dict)):
        raise UserError(f"--label_column: one integer or string for each review is needed, not {label!r}")
    name = names[label] if names else re.sub(r"^(-?[0-9]+)\.0$", r"\1", str(label).strip())
    return READABLE_NAMES.get(name, name)


def class_names(labels, names=None):
    """Classes in the order of their ids: a ClassLabel's own; integers by value; strings by the alphabet."""
    if names:
        return [READABLE_NAMES.get(name, name) for name in names]
    found = sorted(set(labels))
    return sorted(found, key=int) if all(re.fullmatch(r"-?[0-9]+", name) for name in found) else found


def stratified(labels, size, seed, at_least=0):
    """Positions of `size` reviews (all if there are no more), drawn with `seed`, ascending; a pure function.

    Classes share the places as they share the reviews (Sainte-Laguë's method); each gets `at_least` of them first.
    """
    if size >= len(labels):
        return list(range(len(labels)))
    members = defaultdict(list)
    for position, label in enumerate(labels):
        members[label].append(position)
    places = Counter()
    for _ in range(size):
        # The class that is most behind its share; one that is used up is out.
        open_classes = [label for label in members if places[label] < len(members[label])]
        behind = max(open_classes, key=lambda c: (places[c] < at_least, len(members[c]) / (2 * places[c] + 1)))
        places[behind] += 1
    return sorted(
        position
        for label, positions in members.items()
        for position in random.Random(f"{seed}/{label}").sample(positions, places[label])
    )


def load_train_and_test(args):
    """The reviews to train on and to score, as the settings in `args` draw them.

    Returns (train: Reviews, test: Reviews, names of the classes, lines that report what was found and done). Reviews
    that stand in the test split too leave the training split before anything is drawn from it. Raises UserError.
    """
    name, columns = args.dataset_name, (args.text_column, args.label_column)
    train, names, left_out = load_split(name, "train", *columns)
    test, _, test_left_out = load_split(name, "test", *columns)
    if train is None:
        raise UserError(f"{name}: no training split; in a folder, a file train.csv, .jsonl or .parquet is it")
    report = [f"train: {train.summary()}{left_out_in_words(left_out)}"]
    if test is None:
        cut = set(stratified(train.labels, math.ceil(CUT_OFF * len(train)), f"{args.seed}/cut off"))
        test = train.at(sorted(cut))
        train = train.at([position for position in range(len(train)) if position not in cut])
        report += [f"test:  no such split, so {len(test):,} reviews ({CUT_OFF:.0%}) are cut off the training split"]
    else:
        report += [f"test:  {test.summary()}{left_out_in_words(test_left_out)}"]
        unknown = sorted(set(test.labels) - set(train.labels))
        if unknown:
            raise UserError(f"{name}: the test split has labels that train has not: {', '.join(unknown)}")

    test_texts = set(test.texts)
    fresh = [position for position, text in enumerate(train.texts) if text not in test_texts]
    if len(fresh) < len(train):
        report += [f"{len(train) - len(fresh):,} training reviews stand in the test split too and are dropped"]
        train = train.at(fresh)
    for split, reviews in (("train", train), ("test", test)):
        if not reviews:
            raise UserError(f"{name}: no review is left in {split} ({'; '.join(report)})")
    if len(set(train.labels)) < 2:
        raise UserError(f"{name}: all reviews left to train on are {train.labels[0]}; at least two classes are needed")
    train = draw(train, args.max_train_samples, f"{args.seed}/train", at_least=1)
    test = draw(test, args.max_eval_samples, f"{args.seed}/test")
    if len(set(train.labels)) < 2:
        raise UserError(f"--max_train_samples {args.max_train_samples}: one review of each class at least is needed")
    report += [f"drawn: {train.summary()} to train on, {test.summary()} to score"]
    return train, test, names, report


def scored_split(test):
    """The name of a run's test reviews: of a data set without a test split, they were cut off its training split."""
    return HELD_OUT if test.split == "train" else test.split


def find_again(name, identity, text_column, label_column):
    """The reviews that run.json names. Raises UserError if the data set no longer holds them as they were."""
    reviews, _, _ = load_split(name, identity["split"], text_column, label_column)
    position = {row: i for i, row in enumerate(reviews.rows)} if reviews else {}
    found = (
        reviews.at([position[row] for row in identity["rows"]]) if position.keys() >= set(identity["rows"]) else None
    )
    if found is None or found.identity() != identity:
        train = identity["split"] == "train"
        way = "leave --baseline out, or give --split train" if train else "give --max_eval_samples"
        raise UserError(
            f"{name}: the {identity['split']} reviews that run.json names have changed since training; "
            f"{way} to score the data set as it is now"
        )
    return found


def left_out_in_words(left_out):
    """Such as ", left out: 3 without text"; nothing if nothing was."""
    words = [f"{count:,} without {what}" for what, count in left_out.items() if count]
    return ", left out: " + ", ".join(words) if words else ""


def draw(reviews, size, seed, at_least=0):
    """`size` of the reviews by `stratified`; all of them for 0."""
    return reviews.at(stratified(reviews.labels, size or len(reviews), seed, at_least))


def encode(tokenizer, texts):
    """Texts -> (one int64 tensor of token ids for each, special tokens included; how many texts were cut).

    A text of more than tokenizer.model_max_length tokens is cut on the tokenizer's truncation side.
    """
    ids, cut = [], 0
    for start in range(0, len(texts), 1000):  # in chunks: the tokenizer's own objects take far more memory than ids
        encodings = tokenizer(texts[start : start + 1000], truncation=True).encodings
        ids += [torch.tensor(encoding.ids) for encoding in encodings]
        cut += sum(bool(encoding.overflowing) for encoding in encodings)
    return ids, cut
