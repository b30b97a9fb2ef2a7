"""Users' own files and folders, as they are: formats, splits, columns, labels."""

import argparse
import csv
import gzip
import json
import random
import re
import shutil
from collections import Counter

import datasets
import numpy
import pyarrow.parquet
import pytest
import tiny

import evaluate
import predict
import train
from sentiment import data
from sentiment.errors import UserError
from sentiment.hub import access, checks
from sentiment.runtime import flags

ROWS = tiny.reviews(40, seed=11)
TEXTS, LABELS = map(list, zip(*ROWS, strict=True))
ALL = list(range(40))


def settings(dataset, **given):
    defaults = {"seed": 1, "max_train_samples": 0, "max_eval_samples": 0}
    given = data.DEFAULTS | defaults | {"dataset_name": str(dataset), **given}
    return argparse.Namespace(**given)


def load(dataset, **given):
    """(train, eval, names, report) for train.py's flags."""
    reviews, names, report = data.load_train_and_test(settings(dataset, **given))
    return reviews["train"], reviews["eval"], names, report


def pairs(reviews):
    return list(zip(reviews, reviews.labels, strict=True))


def read(dataset, split="train", **given):
    """The (text, label) pairs of a split, and its report."""
    reviews, _, report = data.load_split(settings(dataset, **given), split)
    return (pairs(reviews) if reviews is not None else None), report


def refused(dataset, **given):
    with pytest.raises(UserError) as error:
        load(dataset, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path, rows, columns=("text", "label"), separator=","):
    """Write rows into a file of the type that its name says, without the project's code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name, rows = path.name.lower(), [list(row) for row in rows]
    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    opened = gzip.open if name.endswith(".gz") else open
    if ".parquet" in name:
        datasets.Dataset.from_list(objects).to_parquet(path)
        return path
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if "array" in name:
            json.dump(objects, file, indent=1)
        elif "json" in name:
            file.writelines(json.dumps(each) + "\n" for each in objects)
        else:
            csv.writer(file, delimiter=separator).writerows([columns, *rows])
    return path


FILES = {
    "plain.csv": ",",
    "tabs.tsv": "\t",
    "tabs.csv": "\t",
    "semicolons.csv": ";",
    "semicolons.tsv.gz": ";",
    "array.json": None,
    "array.jsonl": None,
    "lines.json": None,
    "lines.ndjson": None,
    "lines.NDJSON.GZ": None,
    "UPPER.CSV": ",",
    "UPPER.CSV.GZ": ",",
    "Upper.Parquet": None,
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_all_formats_are_read(tmp_path, name):
    separator = FILES[name]
    rows = [(f"{text}, {'; '.join(text)}", label) for text, label in ROWS]
    found, report = read(write(tmp_path / name, rows, separator=separator or ","))
    assert found == rows
    words = {";": ["separated by semicolons"], "\t": ["separated by tabs"]}
    assert report == words.get(separator, [])


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_spaces_after_the_headers_separators_belong_to_no_field(tmp_path, mark):
    rows = [(f"{text}{mark} twice", label) for text, label in ROWS]
    lines = [f'text{mark} "label"', *(f'"{text}"{mark}  {label}' for text, label in rows)]
    (tmp_path / "typed.csv").write_text("\n".join(lines))
    assert read(tmp_path / "typed.csv")[0] == rows
    lines[0] = lines[0].replace(" ", "")  # else they are kept, as in other types of files
    (tmp_path / "made.csv").write_text("\n".join([*lines, f" spaced {mark}good"]))
    assert " spaced " in [text for text, _ in read(tmp_path / "made.csv")[0]]


def test_unknown_types_and_texts_of_several_types_are_refused(tmp_path):
    (tmp_path / "reviews.xlsx").write_bytes(b"PK")
    error = refused(tmp_path / "reviews.xlsx")
    assert all(f".{kind}" in error for kind in ("csv", "tsv", "json", "ndjson", "parquet", "gz"))
    mixed = [("film", 0), ("films", "good")] * 5
    assert "column label" in refused(write(tmp_path / "labels.jsonl", mixed))
    mixed = [("film", 0), (5, 1)] * 5
    assert "column text" in refused(write(tmp_path / "texts.jsonl", mixed))


def shards(folder, end, split="train"):
    for i in range(2):
        write(folder / f"{split}-0000{i}-of-00002{end}", ROWS[20 * i : 20 * i + 20])


def test_splits_are_whole_files_then_shards_then_those_in_data(tmp_path):
    write(tmp_path / "data" / "train.csv", ROWS[:10])
    assert read(tmp_path)[0] == ROWS[:10]
    shards(tmp_path / "data", ".csv", "test")
    assert read(tmp_path, "test")[0] == ROWS
    shards(tmp_path, "-0123456789abcdef.parquet")
    assert read(tmp_path)[0] == ROWS
    write(tmp_path / "Train.JSONL", ROWS[5:15])
    write(tmp_path / "train_full.csv.gz", ROWS)
    write(tmp_path / "deeper" / "train.csv", ROWS)
    for name in ("notes.csv", "notes.jsonl", "notes-0-of-9.csv"):
        write(tmp_path / name, ROWS)
    assert read(tmp_path)[0] == ROWS[5:15]
    write(tmp_path / "train.csv", ROWS)
    assert "needs 1 .jsonl, but there is Train.JSONL, train.csv" in refused(tmp_path)


def test_a_missing_shard_is_refused(tmp_path):
    shards(tmp_path, ".csv")
    (tmp_path / "train-00001-of-00002.csv").unlink()
    error = refused(tmp_path)
    assert "needs 2 .csv, but there is train-00000-of-00002.csv" in error
    assert read(tmp_path / "train-00000-of-00002.csv")[0] == ROWS[:20]


def test_a_shard_of_another_kind_does_not_count(tmp_path):
    shards(tmp_path, ".csv")
    second = tmp_path / "train-00001-of-00002.csv"
    for name in ("train-00000-of-00002.csv.gz", "train-00001-of-00002.jsonl"):
        second.unlink(missing_ok=True)
        other = write(tmp_path / name, ROWS[:20])
        assert "needs 2 .csv" in refused(tmp_path)
        other.unlink()


def test_a_configuration_of_a_folder_is_a_subfolder(tmp_path):
    write(tmp_path / "plain_text" / "train.csv", ROWS)
    assert read(tmp_path, dataset_config_name="plain_text")[0] == ROWS
    assert "no such folder" in refused(tmp_path, dataset_config_name="other")
    assert "no split train; its splits: none" in refused(tmp_path)
    assert "is local" in refused(tmp_path, dataset_revision="v1")


def test_folders_from_save_to_disk_are_read(tmp_path):
    rows = [dict(text=text, label=label) for text, label in ROWS]
    whole, part = datasets.Dataset.from_list(rows), datasets.Dataset.from_list(rows[:10])
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=whole, test=part).save_to_disk(tmp_path / "splits")
    assert read(tmp_path / "one")[0] == read(tmp_path / "splits")[0] == ROWS
    assert read(tmp_path / "one", "test")[0] is None
    assert read(tmp_path / "splits", "test")[0] == ROWS[:10]
    numbers = write(tmp_path / "numbers.csv", [(text, i % 2) for i, text in enumerate(TEXTS)])
    typed = datasets.load_dataset("csv", data_files=str(numbers), split="train")
    typed.save_to_disk(tmp_path / "typed")
    assert read(tmp_path / "typed")[0] == [(text, str(i % 2)) for i, text in enumerate(TEXTS)]
    (tmp_path / "one" / "state.json").write_text("{")
    assert str(tmp_path / "one") in refused(tmp_path / "one")


def acl_imdb(folder):
    """Reviews as Stanford distributes them. Returns the (text, label) pairs of train."""
    for split in ("train", "test"):
        for name, word in (("neg", "dull"), ("pos", "lovely"), ("unsup", "some")):
            (folder / split / name).mkdir(parents=True)
            (folder / split / ".hidden").mkdir(exist_ok=True)
            (folder / split / ".hidden" / "0_0.txt").write_text("no review")
            for i in range(12):
                text = f"A {word} film, number {i} of {split}<br />with two\nlines"
                (folder / split / name / f"{i}_{i % 10}.txt").write_text(text)
        (folder / split / "urls_pos.txt").write_text("http://example.org\n")
        (folder / split / "labeledBow.feat").write_text("9 0:1")
    (folder / "README").write_text("Large Movie Review Dataset")
    files = sorted((folder / "train").glob("*/*.txt"))
    return [(path.read_text(), path.parent.name) for path in files]


def test_imdb_as_stanford_distributes_it(tmp_path):
    rows = acl_imdb(tmp_path)
    names = {"neg": "negative", "pos": "positive"}
    train_set, test_set, classes, report = load(tmp_path)
    assert sorted(pairs(train_set)) == sorted((t, names[x]) for t, x in rows if x in names)
    assert Counter(test_set.labels) == {"negative": 12, "positive": 12}
    assert classes == ["negative", "positive"]
    assert report.count("unsup has no labels and is skipped") == 2


def test_data_of_the_user_is_used_in_full_and_imdb_is_sampled():
    def sizes(*argv):
        args = train.parse_args(argv)
        return args.max_train_samples, args.max_eval_samples

    assert sizes() == (1000, 100)
    assert sizes("--max_train_samples", "0") == (0, 100)
    assert sizes("--dataset_name", "mine.csv") == (0, 0)
    assert sizes("--dataset_name", "mine.csv", "--max_eval_samples", "7") == (0, 7)


def test_the_report_says_what_is_used(tmp_path):
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(1500)]
    write(tmp_path / "train.csv", rows)
    write(tmp_path / "test.csv", [(f"other {i}", "ab"[i % 2]) for i in range(300)])
    train_set, test_set, _, report = load(tmp_path)
    assert (len(train_set), len(test_set)) == (1500, 300)
    assert report[-1] == "used: 1,500 of 1,500 reviews to train, 300 of 300 to score"
    report = load(tmp_path, max_train_samples=1000)[3]
    assert report[-1] == "used: 1,000 of 1,500 reviews to train, 300 of 300 to score"


UNLABELLED = {
    "minus one": [(text, -1) for text, _ in ROWS[30:]],
    "nothing": [(text, "") for text, _ in ROWS[30:]],
}


@pytest.mark.parametrize("kind", UNLABELLED)
def test_a_test_split_without_labels_gives_way_to_validation(tmp_path, kind):
    rows = [(text, int(label == "positive")) for text, label in ROWS]
    write(tmp_path / "train.csv", rows[:20])
    write(tmp_path / "test.csv", UNLABELLED[kind])
    held_out = load(tmp_path)[1]
    assert held_out.split == "train"
    write(tmp_path / "validation.csv", rows[20:30])
    _, scored, classes, report = load(tmp_path)
    assert (scored.split, len(scored), classes) == ("validation", 10, ["0", "1"])
    assert "test: no labels, not used" in report
    assert "validation: 10 reviews (0: 5, 1: 5)" in report
    # -1 is a class like others where train has it.
    if kind == "minus one":
        write(tmp_path / "train.csv", [*rows[:20], ("so so", -1), ("fair", -1)])
        assert load(tmp_path)[1].split == "test"


def test_splits_may_have_other_names(tmp_path, distilbert):
    for name in ("learn", "dev", "final"):
        write(tmp_path / f"{name}.csv", [(f"{name} {text}", label) for text, label in ROWS])
    names = {"train_split_name": "learn", "validation_split_name": "dev"}
    train_set, scored, _, _ = load(tmp_path, **names)
    assert (train_set.split, scored.split) == ("learn", "dev")
    assert load(tmp_path, **names, test_split_name="final")[1].split == "final"
    held_out = load(tmp_path, train_split_name="learn")[1]
    assert held_out.split == "learn"
    run = tiny.train(
        distilbert, tmp_path, tmp_path / "run", train_split_name="learn", num_train_epochs=1
    )
    assert tiny.read(run, "metrics.json")["split"] == data.HELD_OUT
    error = refused(tmp_path, **names, test_split_name="tset")
    assert "--test_split_name tset" in error
    assert "dev, final, learn" in error
    assert "no split train" in refused(tmp_path)


def test_a_test_file_without_a_label_column_is_named_and_can_be_left_out(tmp_path):
    write(
        tmp_path / "train.csv", [(i, *row) for i, row in enumerate(ROWS)], ["id", "text", "label"]
    )
    write(tmp_path / "test.csv", [(i, t) for i, (t, _) in enumerate(ROWS[:9])], ["id", "text"])
    error = refused(tmp_path)
    for part in ("--label_column label", "test.csv", "id, text", "--test_split_name none"):
        assert part in error
    assert load(tmp_path, test_split_name="none")[1].split == "train"


def test_text_columns_are_joined_by_one_space(tmp_path):
    rows = [("Title", "body", "a"), ("", "only body", "b"), (" Title ", None, "a"), ("", " ", "b")]
    wanted = [("Title body", "a"), ("only body", "b"), (" Title ", "a")]
    for kind in ("csv", "jsonl", "parquet"):
        path = write(tmp_path / f"train.{kind}", rows, ["title", "body", "label"])
        found, report = read(path, text_column="title,body")
        assert found == wanted
        assert report == ["dropped: 1 without text, 0 without label"]
        assert found == read(path, text_column="title, body")[0]
    # A column's whole name comes first.
    path = write(tmp_path / "comma.csv", ROWS, ["title,body", "label"])
    assert read(path, text_column="title,body")[0] == ROWS


def test_a_text_column_that_holds_the_label_is_refused(tmp_path):
    path = write(tmp_path / "train.csv", ROWS)
    for column in ("text,label", "label"):
        assert "part of its own text" in refused(path, text_column=column)
    error = refused(path, label_column="text")
    assert "--label_column text" in error
    assert "40 different labels" in error


BROKEN = {
    "archive.csv": b"PK\x03\x04\x14\x00\x06\x00" + bytes(range(256)) * 4,
    "archive.json": b"\xfd7zXZ\x00" + b"x" * 50,
    "list/dataset_dict.json": b"[]",
    "number/state.json": b'{"_data_files": 1}',
    "columns.json": json.dumps({"text": dict(enumerate(TEXTS)), "label": {}}).encode(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_library_cannot_read_is_one_short_line(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(BROKEN[name])
    path = path.parent if path.parent != tmp_path else path
    error = refused(path)
    assert str(path) in error
    assert len(error) < 250 + len(str(path))


def test_splits_that_are_not_used_are_named(tmp_path):
    for name in ("train", "dev", "extra"):
        write(tmp_path / f"{name}.csv", [(f"{name} {text}", label) for text, label in ROWS])
    assert "not used: dev, extra" in load(tmp_path)[3]
    write(tmp_path / "test.csv", [(f"test {text}", label) for text, label in ROWS])
    assert "not used: dev, extra" in load(tmp_path)[3]
    assert "not used: extra" in load(tmp_path, validation_split_name="dev")[3]


def test_missing_columns_are_named_together(tmp_path):
    error = refused(write(tmp_path / "a.csv", ROWS, ["sentence", "stars"]))
    for part in ("--text_column text", "--label_column label", "sentence, stars", "a.csv"):
        assert part in error


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([round(1 + i * 0.071, 2) for i in range(40)], ["1.07", "(row 1)", "measurement"]),
        (["0,25", "0,5"] * 20, ["0,25", "(row 0)", "measurement"]),
        ([f"id {i}" for i in range(40)], ["id 0", "(row 0)", "40 different labels"]),
        (TEXTS, ["40 different labels", "..."]),
        ([0, "negative", 1, "positive"] * 10, ["0", "negative", "--label_map NUMBER=NAME"]),
    ],
    ids=["floats", "decimal commas", "ids", "texts", "mixed"],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, named):
    rows = zip(TEXTS, labels, strict=True)
    error = refused(write(tmp_path / "train.csv", rows, ["text", "stars"]), label_column="stars")
    assert all(part in error for part in ["--label_column stars", *named]), error
    assert len(error) < 250


@pytest.mark.parametrize(
    "labels",
    [
        ["0.5", "1", "1.5", "2", "2.5"] * 8,  # half stars
        [f"class {i // 2}" for i in range(40)],
        ["1", "2", "3", "unknown"] * 10,
        ["2,5", "3,5"] * 20,
        ["-1", "0", "1", "nan."] * 10,
    ],
)
def test_unusual_classes_are_accepted(tmp_path, labels):
    path = write(tmp_path / "train.csv", zip(TEXTS, labels, strict=True))
    assert set(load(path)[2]) == set(labels)


def test_swapped_columns_are_refused(tmp_path):
    long = [(label, text * 300) for text, label in ROWS]
    assert "swapped" in refused(write(tmp_path / "long.csv", long))
    path = write(tmp_path / "train.csv", [(label, text) for text, label in ROWS])
    error = refused(path)
    assert "swapped" in error
    assert "--text_column label --label_column text" in error
    assert len(error) < 250
    assert load(path, text_column="label", label_column="text")[2] == ["negative", "positive"]


def test_labels_that_look_alike_are_one_class_and_reported(tmp_path):
    variants = ["good", "Good", "GOOD", " good ", "good\u200b", "very\xa0bad", "very bad", "good"]
    path = write(tmp_path / "train.csv", zip(TEXTS, variants * 5, strict=True))
    found, report = read(path)
    assert Counter(label for _, label in found) == {"good": 30, "very bad": 10}
    (line,) = report
    for part in ("'Good' (row 1) as 'good'", "'good\\u200b' (row 4)", "'very\\xa0bad' (row 5)"):
        assert part in line
    # The test split follows the training split.
    write(tmp_path / "test.csv", [("film", "GOOD"), ("story", "Very Bad")])
    _, scored, classes, _ = load(tmp_path)
    assert classes == ["good", "very bad"]
    assert list(scored.labels) == ["good", "very bad"]


def test_composed_and_decomposed_letters_are_one_class(tmp_path):
    labels = ["caf\u00e9", "cafe\u0301", "bar", "bar"] * 10
    path = write(tmp_path / "train.csv", zip(TEXTS, labels, strict=True))
    assert load(path)[2] == ["bar", "caf\u00e9"]


def test_a_label_map_and_the_model_s_classes_are_found_in_any_case(tmp_path):
    path = write(
        tmp_path / "train.csv", zip(TEXTS, ["Positive", "good", "bad", "POS"] * 10, strict=True)
    )
    assert load(path, label_map={"GOOD": "positive"})[2] == ["bad", "positive"]
    with pytest.raises(argparse.ArgumentTypeError):
        flags.label_map("Pos=a,positive=b")
    classes = ["Neg", "Pos"]
    found = {"negative": 0, "positive": 1}
    assert evaluate.match(["negative", "positive"], [], False, classes) == (
        "by name in any case",
        found,
    )


def test_a_label_outside_its_class_label_is_refused(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [i % 3 for i in ALL]})
    table = rows.with_format("arrow")[:]
    table = table.replace_schema_metadata(features.arrow_schema.metadata)
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert "train.parquet" in refused(tmp_path / "train.parquet")


def test_half_stars_are_classes_by_value(tmp_path):
    labels = [str(i / 2).removesuffix(".0") for i in range(1, 21)]
    path = write(tmp_path / "train.csv", zip(TEXTS, labels[::-1] * 2, strict=True))
    assert load(path)[2] == labels


def test_names_of_a_class_label_stay_apart(tmp_path):
    names = ["Yes", "yes", "NEG"]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    rows = {"text": TEXTS, "label": [i % 3 for i in ALL]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    train_set, _, classes, _ = load(tmp_path / "train.parquet")
    assert classes == names
    assert set(train_set.labels) == set(names)


@pytest.mark.parametrize("label_first", [False, True])
@pytest.mark.parametrize("more", [False, True])
def test_rows_behind_a_stray_quote_are_reported(tmp_path, label_first, more):
    rows = [[f"{text}", label] for text, label in ROWS]
    rows[9][0], rows[29][0] = f'"{rows[9][0]}', f'"{rows[29][0]}'
    columns = ["text", "label"] + ["stars"] * more
    rows = [row + ["5"] * more for row in rows]
    if label_first:
        columns = ["label", "text"] + ["stars"] * more
        rows = [[row[1], row[0], *row[2:]] for row in rows]
        rows[29][1] += '"'
    path = tmp_path / "train.csv"
    path.write_text("".join(",".join(row) + "\n" for row in [columns, *rows]))
    reviews, _, report = data.load_split(settings(path), "train")
    assert len(reviews) == 20
    (line,) = report
    assert "(row 9) seems to hold 20 other rows; check for a stray quote" in line


def test_texts_of_several_lines_are_no_stray_quotes(tmp_path):
    rows = [(f"{text},\nfive, really\n1, 2, negative\n", label) for text, label in ROWS]
    rows += [("first, negative\nsecond", "positive"), ("a,negative", "negative")]
    assert read(write(tmp_path / "train.csv", rows))[1] == []
    assert (
        read(write(tmp_path / "t.jsonl", [("a,positive\nb", "positive"), ("c", "negative")]))[1]
        == []
    )


def test_a_quote_that_is_never_closed_is_named(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "".join(f"{t},{x}\n" for t, x in ROWS) + '"open,negative\n')
    assert "never closed" in refused(path)


def test_texts_with_contradicting_labels_are_counted(tmp_path):
    rows = [*ROWS, (ROWS[3][0], "negative"), (ROWS[5][0], "negative"), ROWS[6]]
    assert ROWS[3][1] == ROWS[5][1] == "positive"
    report = load(write(tmp_path / "train.csv", rows))[3]
    (line,) = [line for line in report if "different labels" in line]
    assert line.startswith("train: 2 texts with different labels, such as ")
    assert line.endswith("(rows 3 and 40)")
    assert ROWS[3][0][:30] in line
    assert "labels" not in "".join(load(write(tmp_path / "once.csv", ROWS))[3][1:-1])


def test_a_label_map_names_and_joins_classes(tmp_path):
    stars = [1 + i % 5 for i in ALL]
    path = write(tmp_path / "train.csv", zip(TEXTS, stars, strict=True))
    label_map = flags.label_map("5=great,4=great,2=bad,1=bad")
    found, report = read(path, label_map=label_map)
    names = {1: "bad", 2: "bad", 3: "3", 4: "great", 5: "great"}
    assert [label for _, label in found] == [names[star] for star in stars]
    assert report == []
    assert load(path, label_map=label_map)[2] == ["bad", "3", "great"]
    assert load(path, label_map=flags.label_map("1=z,2=y,3=x,4=w,5=v"))[2] == list("zyxwv")
    error = refused(path, label_map={"7": "best"})
    assert "7=best" in error
    assert "1, 2, 3, 4, 5" in error
    for wrong in ("0", "0=", "=a", "0=a,0=b", "0=Pos,1=pos", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="LABEL=NAME"):
            flags.label_map(wrong)


MISSING = [
    "",
    "nosuch.json",
    "nosuch.tsv",
    "nosuch.ndjson",
    "data/nosuch.txt",
    "REVIEWS.CSV",
    "a.xlsx",
]


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_file_is_never_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(access.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(access, "with_timeout", lambda *_: pytest.fail("the Hub was asked"))
    with pytest.raises(UserError, match="no such file or folder"):
        access.connect(name)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HF_HOME", "HF_DATASETS_CACHE"])
def test_a_cache_that_cannot_be_written_is_named(tmp_path, distilbert, reviews, variable):
    (tmp_path / "file").write_text("")
    argv = tiny.flags(model_name_or_path=distilbert, dataset_name=reviews, output_dir="run")
    environment = {variable: str(tmp_path / "file")}
    done = tiny.script("train", *argv, cwd=tmp_path, env=environment)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert f"set {variable} to another folder" in done.stderr
    assert str(tmp_path / "file") in done.stderr


OTHERS = "per_device_train_batch_size max_seq_length train_file push_to_hub lr_scheduler_type fp16 "
OTHERS += "num_warmup_steps eval_strategy task_name gradient_accumulation_steps"


@pytest.mark.parametrize("name", OTHERS.split())
def test_flags_of_other_scripts_name_what_takes_their_place(name, refusal):
    for flag in (f"--{name}", f"--{name.replace('_', '-')}"):
        error = refusal(train.main, [f"{flag}=8"])
        assert f"--{name} is no flag here: " in error
        assert "|" not in error
        assert "`" not in error


def test_the_table_names_flags_of_others_on_the_left_and_ours_on_the_right(monkeypatch):
    parsers = []

    def capture(parser, *_):
        parsers.append(parser)
        raise KeyboardInterrupt

    monkeypatch.setattr(flags.Parser, "parse_args", capture)
    for module in (train, evaluate, predict):
        with pytest.raises(KeyboardInterrupt):
            module.parse_args([])
    ours, *others = (set(parser._option_string_actions) for parser in parsers)
    text = flags.OTHERS.read_text(encoding="utf-8")
    lines = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    assert len(lines) > 30
    for left, right in lines:
        named = re.findall(r"--\w+", left)
        assert named
        assert not ours & set(named)
        assert set(re.findall(r"--\w+", right)) <= ours.union(*others)


def test_columns_of_training_are_those_of_prediction(tmp_path, distilbert):
    rows = [(text, "film", label) for text, label in ROWS]
    path = write(tmp_path / "train.csv", rows, ["title", "body", "label"])
    folder = tiny.train(
        distilbert, path, tmp_path / "run", text_column="title,body", num_train_epochs=1
    )
    assert tiny.read(folder, "config.json")["text_columns"] == ["title", "body"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "made of title, body, joined by a space" in card
    given = [
        {"title": "superb", "body": "film", "text": "other"},
        {"title": None, "body": "dull"},
        {"title": " ", "body": "dull film"},
        {"title": "superb", "body": ""},
    ]
    lines = "".join(json.dumps(each) + "\n" for each in given)
    joined = ["superb film", "dull", "dull film", "superb"]
    model = ["--model_name_or_path", str(folder)]
    done = tiny.script("predict", *model, "--jsonl", text=lines)
    assert done.returncode == 0, done.stderr
    plain = tiny.script("predict", *model, *joined)
    scores = [f"{x['label']}\t{x['score']:.4f}" for x in map(json.loads, done.stdout.splitlines())]
    assert scores == plain.stdout.splitlines()
    same = tiny.script("predict", *model, "--jsonl", "--text_column", "title,body", text=lines)
    assert same.stdout == done.stdout
    assert predict.parse('{"title": null, "body": null}', "title,body")[0] == ""
    for line in ('{"text": "superb"}', '{"title": "superb"}'):
        with pytest.raises(ValueError, match="no string field title,body"):
            predict.parse(line, "title,body")


@pytest.mark.parametrize("scored", ["validation", "final"])
def test_evaluation_names_the_split_that_was_scored(tmp_path, distilbert, scored):
    for i, name in enumerate(("full", "validation", "final")):
        write(tmp_path / "data" / f"{name}.csv", tiny.reviews(20 + i, seed=i))
    flag = {"train_split_name": "full", "test_split_name": scored, "validation_split_name": "none"}
    given = {**flag, "num_train_epochs": 1}
    folder = tiny.train(distilbert, tmp_path / "data", tmp_path / "run", **given)
    model = ["--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "out")]
    size = {"full": 20, "validation": 21, "final": 22}
    for argv, split, reviews in (
        ([], scored, size[scored]),
        (["--max_eval_samples", "6"], scored, 6),
        (["--split", "test", "--max_eval_samples", "0"], scored, size[scored]),
        (["--split", "full"], "full", 20),
        (["--split", "train"], "full", 20),
        (["--split", "final"], "final", 22),
    ):
        evaluate.main([*model, *argv])
        scores = tiny.read(tmp_path / "out", "metrics.json")
        assert (scores["split"], scores["reviews"]) == (split, reviews), argv


def test_evaluation_with_other_flags_than_training_names_them(tmp_path, distilbert, refusal):
    rows = [(text, text.upper(), label) for text, label in ROWS]
    path = write(tmp_path / "train.csv", rows, ["text", "body", "label"])
    folder = tiny.train(distilbert, path, tmp_path / "run", num_train_epochs=1)
    argv = ["--model_name_or_path", folder, "--output_dir", tmp_path / "out"]
    assert "--text_column: not as in training" in refusal(
        evaluate.main, [*argv, "--text_column", "body"]
    )


def test_the_saved_model_and_evaluation_use_mapped_names(tmp_path, distilbert):
    rows = [(text, int(label == "positive")) for text, label in ROWS]
    path = write(tmp_path / "train.csv", rows)
    flag = {"label_map": "0=negative,1=positive", "num_train_epochs": 1}
    folder = tiny.train(distilbert, path, tmp_path / "run", **flag)
    names = {"0": "negative", "1": "positive"}
    assert tiny.read(folder, "config.json")["id2label"] == names
    model = ["--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "out")]
    evaluate.main(model)
    assert tiny.read(tmp_path / "out", "metrics.json")["labels"] == ["negative", "positive"]
    same_labels = write(tmp_path / "same.csv", rows[1::2])  # only positive ones: no ids
    evaluate.main([*model, "--dataset_name", str(same_labels)])
    scores = tiny.read(tmp_path / "out", "metrics.json")
    assert scores["per_class"]["positive"]["reviews"] == scores["reviews"] == 20
    other = write(tmp_path / "other.csv", [(text, "yn"[y == 0]) for text, y in rows])
    shutil.rmtree(tmp_path / "out")
    given = ["--dataset_name", str(other), "--label_map", "n=negative,y=positive"]
    evaluate.main([*model, *given])
    scores = tiny.read(tmp_path / "out", "metrics.json")
    assert (scores["reviews"], scores["labels"]) == (40, ["negative", "positive"])


@pytest.mark.parametrize("seed", range(3))
def test_contradictions_against_a_dictionary(seed):
    rng = random.Random(seed)
    texts = [f"text {rng.randrange(30)}" for _ in range(100)]
    labels = [rng.choice("ab") for _ in texts]
    found = {}
    for text, label in zip(texts, labels, strict=True):
        found.setdefault(text, set()).add(label)
    wanted = sum(len(each) > 1 for each in found.values())
    column = datasets.Dataset.from_dict({"text": texts}).with_format("arrow")[:]["text"]
    rows = numpy.arange(100)
    reviews = data.Reviews("train", {"text": column}, rows, numpy.array(labels, object))
    (line,) = checks.contradictions(reviews)
    assert line.startswith(f"train: {wanted} texts with different labels")
    first, second = map(int, line.rstrip(")").split("rows ")[1].split(" and "))
    assert texts[first] == texts[second]
    assert labels[first] != labels[second]
