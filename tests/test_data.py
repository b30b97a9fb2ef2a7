"""Files to labelled reviews, samples and tokens."""

import argparse
import gzip
import json
import os
import random
import re
from collections import Counter
from fractions import Fraction

import datasets
import numpy
import pandas
import pytest
import tiny
import transformers

import evaluate
from sentiment import data, tokens
from sentiment import labels as label_rules
from sentiment.errors import UserError

ROWS = [
    ("A fine film.", "positive"),
    ('Dull, "slow"\nand long.', "negative"),
    ("Ça m'a plu — ★", "positive"),
]


def write_any(path, rows):
    """Write rows into a file of any supported type, without the project's code."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(
            [dict(zip(("text", "label"), row, strict=True)) for row in rows]
        ).to_parquet(path)
        return path
    tiny.write(plain, rows)
    if plain != path:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


def load(path, rows=None, name="train"):
    """(texts, labels, names, report) of a file, which is written first if `rows` are given."""
    if rows is not None:
        write_any(path, rows)
    reviews, names, report = split(path, name)
    return list(reviews), list(reviews.labels), names, report


def split(dataset, name="train", known=(), **settings):
    """data.load_split, with the defaults of train.py."""
    given = data.DEFAULTS | {"dataset_name": str(dataset), **settings}
    return data.load_split(argparse.Namespace(**given), name, known)


def columns(reviews):
    return list(reviews), list(reviews.labels), reviews.rows.tolist()


KINDS = [".csv", ".jsonl", ".parquet", ".csv.gz", ".jsonl.gz"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_read_alone_and_in_a_folder(tmp_path, kind):
    texts, labels = map(list, zip(*ROWS, strict=True))
    wanted = (texts, labels, ["negative", "positive"], [])
    assert load(tmp_path / f"reviews{kind}", ROWS) == wanted
    write_any(tmp_path / f"validation{kind}", ROWS)
    assert load(tmp_path, name="validation") == wanted
    assert split(tmp_path, "test")[0] is None


@pytest.mark.parametrize("kind", [".csv", ".jsonl.gz", ".csv.gz"])
def test_a_changed_file_is_read_again(tmp_path, kind):
    path = tmp_path / f"train{kind}"
    assert load(path, ROWS)[0] == [text for text, _ in ROWS]
    write_any(path, ROWS[:2])
    os.utime(path, (2e9, 2e9))  # a file system may be too coarse to tell the two apart
    assert load(path)[0] == [text for text, _ in ROWS[:2]]


LOOK_ALIKES = [
    "NA None null nan 007 1.0 true 2020-01-01 #N/A",
    "007 08 1.50",
    "true false true",
    "inf nan",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [line.split() for line in LOOK_ALIKES], ids=LOOK_ALIKES)
def test_texts_that_look_like_missing_values_or_numbers_are_texts(tmp_path, kind, texts):
    assert (
        load(tmp_path / f"train{kind}", [(text, "ab"[i % 2]) for i, text in enumerate(texts)])[0]
        == texts
    )


@pytest.mark.parametrize(
    "name", ["reviews [final].csv", "what?*.jsonl", "a b#c%20.parquet", "ümlaut.csv"]
)
def test_a_file_may_have_any_name(tmp_path, name):
    assert len(load(tmp_path / name, ROWS)[0]) == 3


@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_and_either_line_ending_are_read(tmp_path, kind, newline):
    path = write_any(tmp_path / f"train{kind}", [("good film", "a"), ("bad film", "b")])
    path.write_bytes(
        b"\xef\xbb\xbf" + newline.join(path.read_text(encoding="utf-8").splitlines()).encode()
    )
    assert load(path)[:2] == (["good film", "bad film"], ["a", "b"])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 2, 1, 2], ["1", "2", "10"]),
        ([5, 4, 3, 2, 1], ["1", "2", "3", "4", "5"]),
        ([1, -1, 1], ["-1", "1"]),
        (["pos", "neg", "pos"], ["negative", "positive"]),
        (["b", "C", "a"], ["C", "a", "b"]),
        ([True, False], ["False", "True"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["--5", "--6"], ["--5", "--6"]),
    ],
)
def test_classes_are_integers_by_value_or_strings_alphabetically(tmp_path, labels, names):
    rows = [(f"text {i}", label) for i, label in enumerate(labels)]
    for kind in (".jsonl", ".csv"):
        _, found, classes, _ = load(tmp_path / f"train{kind}", rows)
        assert classes == names
        assert found == [label_rules.READABLE_NAMES.get(label, str(label)) for label in labels]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"text": {"0": "good"}, "label": {"0": 1}}, "unlike {'0': 'good'}; see --text_column (JS"),
        ({"data": [{"text": "good", "label": 1}]}, "has columns data (CSV: its first line; JSON: "),
        ([{"text": "good", "label": 1}, {"text": 5, "label": 0}], "must be strings, unlike 5; see"),
    ],
)
def test_json_of_another_layout_is_refused_with_a_hint(tmp_path, content, reason):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(reason)):
        load(path)


@pytest.mark.parametrize("kind", [".jsonl", ".csv"])
def test_labels_of_other_programs_for_none_are_missing_unless_they_are_classes(tmp_path, kind):
    labels = ["0", "NULL", "1", "nan", "#N/A", "<NA>", r"\N", "N/A", "none"]
    rows = [(f"text {i}", label) for i, label in enumerate(labels)]
    path = tmp_path / f"train{kind}"
    _, found, classes, report = load(path, rows)
    assert found == ["0", "1", "N/A", "none"]
    assert classes == ["0", "1", "N/A", "none"]
    assert report == ["dropped: 0 without text, 5 without label"]
    settings = argparse.Namespace(**data.DEFAULTS | {"dataset_name": str(path)})
    assert data.load_split(settings, "train", ["Null"])[1] == ["0", "1", "N/A", "Null", "none"]
    settings.label_map = {"null": "neutral"}
    assert "neutral" in data.load_split(settings, "train")[1]


@pytest.mark.parametrize("kind", [".jsonl", ".csv"])
def test_spellings_of_an_integer_are_one_class(tmp_path, kind):
    """But not of a thousand."""
    labels = ["2.0", "1.00", "2,0", "1,00", "1,000"]
    path = tmp_path / f"train{kind}"
    rows = [(f"text {i}", label) for i, label in enumerate(labels)]
    _, found, classes, report = load(path, rows)
    assert (found, classes) == (["2", "1", "2", "1", "1,000"], ["1", "1,000", "2"])
    assert report == ["label: read '2,0' (row 2) as '2', '1,00' (row 3) as '1'"]


def test_the_summary_counts_classes_with_long_names_and_cuts_long_lists(tmp_path):
    rows = [(f"text {i}", f"{i:02d} {'word ' * 20}") for i in range(12)]
    reviews, _, _ = data.load_split(
        argparse.Namespace(
            **data.DEFAULTS | {"dataset_name": str(tiny.write(tmp_path / "a.csv", rows))}
        ),
        "train",
    )
    shown = [f"{i:02d} {('word ' * 20)[:34]}...: 1" for i in range(10)]
    assert reviews.summary() == f"12 reviews ({', '.join(shown)}, 2 more classes)"


@pytest.mark.parametrize("kind", [".jsonl", ".parquet", ".csv"])
def test_integers_with_missing_values_stay_integers(tmp_path, kind):
    rows = [("a", 0.0), ("b", None), ("c", 1.0), ("d", 10.0), ("e", 2.0)]
    assert load(tmp_path / f"train{kind}", rows)[1:] == (
        ["0", "1", "10", "2"],
        ["0", "1", "2", "10"],
        ["dropped: 0 without text, 1 without label"],
    )


def test_class_order_does_not_depend_on_set_order():
    """Set order differs between processes; equal values are sorted alphabetically."""
    wanted = ["-0", "0", "00", "000", "001", "01", "1"]
    assert label_rules.class_names([*wanted[::2], *wanted[1::2]]) == wanted


def test_a_class_label_keeps_its_order_and_minus_one_is_missing(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg", "so"])}
    )
    rows = {"text": ["a", "b", "c"], "label": [1, -1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    wanted = (
        ["a", "c"],
        ["negative", "positive"],
        ["positive", "negative", "so"],
        ["dropped: 0 without text, 1 without label"],
    )
    assert load(tmp_path / "train.parquet") == wanted


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_reviews_without_text_or_label_are_dropped_and_counted(tmp_path, kind):
    rows = [
        ("one", "a"),
        ("", "b"),
        ("two", None),
        (" \n", "a"),
        ("three", "b"),
        (None, None),
        ("four", " a "),
    ]
    reviews, names, report = split(write_any(tmp_path / f"train{kind}", rows))
    assert columns(reviews) == (
        ["one", "three", "four"],
        ["a", "b", "a"],
        [0, 4, 6],
    )
    assert names == ["a", "b"]
    assert report == [
        "dropped: 3 without text, 1 without label",
        "label: read ' a ' (row 6) as 'a'",
    ]


def test_parquet_with_a_pandas_index_is_read(tmp_path):
    """The index becomes an extra column of the file."""
    pandas.DataFrame(ROWS, columns=["text", "label"]).iloc[[2, 0, 1]].to_parquet(
        tmp_path / "train.parquet"
    )
    reviews, _, _ = split(tmp_path)
    texts, _, rows = columns(reviews)
    assert (texts, rows) == ([ROWS[i][0] for i in (2, 0, 1)], [0, 1, 2])


def test_rows_with_too_few_fields_miss_their_label(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\none,a\ntwo\nthree,b\n")
    assert load(tmp_path / "train.csv") == (
        ["one", "three"],
        ["a", "b"],
        ["a", "b"],
        ["dropped: 0 without text, 1 without label"],
    )


@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_columns_that_are_not_asked_for_may_hold_anything(tmp_path, kind):
    """Both readers read in chunks and guess types from the first chunk."""
    rows = [(f"text {i}", "ab"[i % 2], 4 if i < 30_000 else "four stars") for i in range(30_100)]
    path = tiny.write(tmp_path / f"train{kind}", rows, columns=("text", "label", "stars"))
    assert len(load(path)[0]) == 30_100


LABELS = ["a"] * 60 + ["b"] * 30 + ["c"] * 9 + ["d"]


def stratified(*given, **more):
    return data.stratified(numpy.array(LABELS, object), *given, **more).tolist()


@pytest.mark.parametrize("size", range(0, 101, 5))
def test_stratified_keeps_the_proportions_of_the_classes(size):
    sampled = stratified(size, seed=1)
    assert len(sampled) == size
    assert sampled == sorted(set(sampled))
    counts = Counter(LABELS[i] for i in sampled)
    for label, count in Counter(LABELS).items():
        assert abs(counts[label] - size * count / 100) < 1


def test_stratified_by_hand():
    # Quotients 60/1, 60/3, 30/1, 60/5, 30/3, ... : the ten largest are six of a, three of b, one of
    # c.
    sampled = stratified(10, seed=1)
    assert Counter(LABELS[i] for i in sampled) == {"a": 6, "b": 3, "c": 1}
    sampled = stratified(10, seed=1, at_least=1)
    # One for each class, then six more: a 60/3, 60/5, b 30/3, a 60/7, 60/9, b 30/5.
    assert Counter(LABELS[i] for i in sampled) == {"a": 5, "b": 3, "c": 1, "d": 1}


def test_stratified_is_deterministic_and_samples_everywhere():
    sampled = stratified(20, seed=1)
    assert stratified(20, seed=1) == sampled
    assert len({tuple(stratified(20, seed=seed)) for seed in range(20)}) == 20
    everywhere = {i for seed in range(200) for i in stratified(20, seed)}
    assert everywhere == set(range(99))  # d has no place
    assert stratified(100, 1) == stratified(1000, 1) == list(range(100))


@pytest.mark.parametrize("at_least", [0, 1, 3])
def test_stratified_equals_its_definition(at_least):
    """Places are given one by one to the class with the largest quotient, the first on a tie."""
    for seed in range(40):
        rng = random.Random(seed)
        labels = rng.choices("pqrst", weights=[9, 5, 5, 2, 1], k=rng.randint(1, 60))
        members = {label: [i for i, x in enumerate(labels) if x == label] for label in labels}
        for size in range(len(labels)):
            given = dict.fromkeys(members, 0)
            for _ in range(size):
                open_to = [x for x in members if given[x] < len(members[x])]
                few = [x for x in open_to if given[x] < at_least] or open_to
                given[max(few, key=lambda x: Fraction(len(members[x]), 2 * given[x] + 1))] += 1
            wanted = []
            for label, count in given.items():
                wanted += random.Random(f"{seed}/{label}").sample(members[label], count)
            found = data.stratified(numpy.array(labels, object), size, seed, at_least)
            assert found.tolist() == sorted(wanted)


def sampled(dataset, train=0, test=0, seed=42, **more):
    """data.load_train_and_test, with the report as one string."""
    given = data.DEFAULTS | {"dataset_name": str(dataset), "seed": seed, **more}
    args = argparse.Namespace(**given, max_train_samples=train, max_eval_samples=test)
    reviews, names, report = data.load_train_and_test(args)
    return reviews["train"], reviews["eval"], names, "\n".join(report)


def test_without_a_test_split_a_stratified_tenth_is_held_out(tmp_path):
    rows = (
        tiny.reviews(200, seed=3)[:140] + tiny.reviews(500, seed=4)[1::2][:60]
    )  # 70 negative, 130 positive
    path = tiny.write(tmp_path / "all.csv", list(dict(rows).items()))
    train, test, _, report = sampled(path)
    assert set(train.rows) | set(test.rows) == set(range(200))
    assert not set(train.rows) & set(test.rows)
    assert Counter(test.labels) == {"negative": 7, "positive": 13}
    assert (train.split, test.split) == ("train", "train")
    assert "20 reviews (10%) are held out" in report
    assert columns(sampled(path)[1]) == columns(test)
    assert sampled(path, seed=43)[1].rows.tolist() != test.rows.tolist()


def test_row_numbers_refer_to_rows_of_the_file(tmp_path):
    rows = [*tiny.reviews(50, seed=5), ("", "positive"), *tiny.reviews(150, seed=6)]
    rows = [*dict(rows).items()]
    tiny.write(tmp_path / "train.csv", rows)
    tiny.write(tmp_path / "test.csv", rows[:30])
    train, test, _, _ = sampled(tmp_path, train=20, test=10)
    assert (len(train), len(test)) == (20, 10)
    for reviews in (train, test):
        assert [rows[row] for row in reviews.rows] == list(
            zip(reviews, reviews.labels, strict=True)
        )
    assert min(train.rows) >= 30


def test_training_texts_that_are_also_test_texts_are_dropped(tmp_path):
    rows = tiny.reviews(30, seed=7)
    tiny.write(tmp_path / "train.csv", [*rows, rows[0], rows[29]])
    tiny.write(tmp_path / "test.csv", [rows[0], rows[1], rows[1]])
    train, test, _, report = sampled(tmp_path)
    assert train.rows.tolist() == [*range(2, 30), 31]
    assert test.rows.tolist() == [0, 1, 2]
    assert "train: dropped 3 whose text is also scored" in report


def test_every_class_has_a_training_review_even_in_a_small_subset(tmp_path):
    rows = [(f"text {i}", "rare" if i == 70 else "common") for i in range(100)]
    tiny.write(tmp_path / "train.jsonl", rows)
    tiny.write(tmp_path / "test.jsonl", [("other", "common")])
    train, _, names, _ = sampled(tmp_path, train=5)
    assert Counter(train.labels) == {"common": 4, "rare": 1}
    assert names == ["common", "rare"]


@pytest.mark.parametrize(
    "change", [lambda rows: rows[::-1], lambda rows: rows[:15], lambda rows: rows[1:], "relabel"]
)
def test_sampled_reviews_are_found_again_unless_the_file_changed(tmp_path, change):
    rows = tiny.reviews(30, seed=8)
    path = tiny.write(tmp_path / "train.csv", rows)
    _, test, _, _ = sampled(path)
    identity = json.loads(json.dumps(test.identity()))  # as run.json keeps it
    settings = {"dataset_name": str(path), "text_column": "text", "label_column": "label"}
    labels = ["negative", "positive"]
    run = argparse.Namespace(reviews={"eval": identity}, settings=settings, labels=labels)
    assert columns(evaluate.find_again(run, "eval", str(path), "train again")) == columns(test)
    other = {"negative": "positive", "positive": "negative"}
    tiny.write(
        path,
        [(text, other[label]) for text, label in rows] if change == "relabel" else change(rows),
    )
    os.utime(path, (2e9, 2e9))
    with pytest.raises(UserError, match=r"changed since training \(.*\); train again"):
        evaluate.find_again(run, "eval", str(path), "train again")


@pytest.mark.parametrize("limit", [8, 12, 64])
def test_encode_equals_the_tokenizer_and_counts_truncated_texts(distilbert, limit):
    tokenizer = transformers.AutoTokenizer.from_pretrained(distilbert)
    texts = [
        "dull",
        *[text for text, _ in tiny.reviews(1500, seed=9)],
        "film " * 300,
        " ".join(["film"] * (limit - 2)),
    ]
    whole = [tokenizer(text)["input_ids"] for text in texts]
    tokenizer.model_max_length = limit
    encoded = tokens.encode(tokenizer, texts)
    end = tokenizer.sep_token_id
    assert [ids.tolist() for ids in encoded] == [
        w if len(w) <= limit else [*w[: limit - 1], end] for w in whole
    ]
    assert encoded.truncated == sum(len(ids) > limit for ids in whole)
    assert encoded.lengths.tolist() == [min(len(ids), limit) for ids in whole]
