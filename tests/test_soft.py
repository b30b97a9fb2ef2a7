"""Labels that are objects of probabilities: read, checked, and trained on."""

import json
import sys
from argparse import Namespace

import numpy
import pandas
import pytest
import tiny
import torch
from safetensors.torch import load_file

import evaluate
from sentiment import batches, data
from sentiment.errors import UserError

SURE, UNSURE = {"negative": 0.1, "positive": 0.9}, {"positive": 0.45, "negative": 0.55}


def load(path, labels, **settings):
    """(Reviews, names of the classes) of a file with these labels."""
    tiny.write(path, [(f"text {i}", label) for i, label in enumerate(labels)])
    given = Namespace(**data.DEFAULTS | {"dataset_name": str(path)} | settings)
    reviews, classes, _ = data.load_split(given, "train")
    return reviews, classes


JOINED = {"label_map": {"bad": "negative", "awful": "negative", "good": "positive"}}


@pytest.mark.parametrize(
    ("labels", "settings", "names", "rows"),
    [
        ([SURE, UNSURE], {}, "pos neg", [[0.1, 0.9], [0.55, 0.45]]),
        ([SURE, "negative", "pos"], {}, "pos neg pos", [[0.1, 0.9], [1, 0], [0, 1]]),
        # as datasets reads objects after 10 MB of names
        (["negative", json.dumps(SURE)], {}, "neg pos", [[1, 0], [0.1, 0.9]]),
        ([SURE, 0], {"label_map": {"0": "negative"}}, "pos neg", [[0.1, 0.9], [1, 0]]),
        ([{"bad": 0.3, "awful": 0.3, "good": 0.4}], JOINED, "neg", [[0.6, 0.4]]),
        ([{"POSITIVE": 1, "NEGATIVE": 0}, "NEGATIVE"], {}, "POS NEG", [[0, 1], [1, 0]]),
        ([SURE, None, {}, ""], {}, "pos", [[0.1, 0.9]]),  # {}: predict.py's for an empty text
        ([{"negative": 0.3333, "positive": 0.6667}], {}, "pos", [[0.3333, 0.6667]]),
    ],
)
def test_probabilities_and_names_may_be_mixed(tmp_path, labels, settings, names, rows):
    reviews, classes = load(tmp_path / "train.jsonl", labels, **settings)
    assert [label[:3] for label in reviews.labels] == names.split()  # the most probable
    assert [name.lower() for name in classes] == ["negative", "positive"]
    assert reviews.soft.dtype == numpy.float32
    assert reviews.soft == pytest.approx(numpy.array(rows), abs=1e-7)
    assert reviews.at([0]).soft.tolist() == reviews.soft[:1].tolist()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            [SURE, {"negative": 0.5, "positive": 0.6}],
            "row 1: .*0.6.* negative, positive, with sum 1",
        ),
        ([SURE, {"negative": 0.4, "positive": 0.5}], "row 1: "),
        ([SURE, {"negative": -0.5, "positive": 1.5}], "row 1: "),
        ([SURE, {"negative": float("nan"), "positive": 1}], "row 1: "),
        (
            ["negative", f'{{"negative": 0, "positive": {10**400}}}'],
            "cannot be read: int too large",
        ),
        ([SURE, {"positive": 1}], "row 1: .* for each of negative, positive"),
        ([SURE, {"neutral": 0.5, "positive": 0.5}], "for each of negative, positive, neutral"),
        ([{"negative": "much", "positive": "more"}], "row 0: "),
        ([{"answer": "a film", "start": 3}], "for each of answer, start"),  # another column
        ([{"": 0.5, "positive": 0.5}], "row 0: "),
        ([SURE, "neutral"], "are of negative, positive, but others say neutral; .*label_map"),
        ([SURE, 1], "but others say 1"),
        ([SURE, ["positive"]], r"but others say \["),
        ([["positive"], ["negative"]], r"unlike \['positive'\]; see --label_column"),
        (["good", 1], "unlike 'good'; see --label_column"),
        (["good", '{"broken": '], "cannot be read"),
        (["good", "{'good': 1}"], "cannot be read"),  # Python's, not JSON
    ],
)
def test_what_is_no_probability_of_each_class_is_refused(tmp_path, labels, words):
    with pytest.raises(UserError, match=words):
        load(tmp_path / "train.jsonl", labels)


def test_other_probabilities_are_other_reviews(tmp_path):
    """By their digest: a run on these cannot resume one on those."""
    digests = {
        load(tmp_path / f"{i}.jsonl", labels)[0].sha256
        for i, labels in enumerate([["negative", "positive"], [SURE, UNSURE], [UNSURE, UNSURE]])
    }
    assert len(digests) == 3


@pytest.mark.parametrize("labels", [[{}, {}], [None, None]])
def test_a_split_without_labels_has_no_reviews(tmp_path, labels):
    reviews, _ = load(tmp_path / "test.jsonl", labels)
    assert not reviews


def test_objects_in_parquet_and_in_csv(tmp_path):
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": [SURE, None, UNSURE]})
    frame.to_parquet(tmp_path / "train.parquet")
    frame["label"] = frame["label"].map(json.dumps, na_action="ignore")
    frame.to_csv(tmp_path / "train.csv", index=False)
    for kind in ("parquet", "csv"):
        given = data.DEFAULTS | {"dataset_name": str(tmp_path / f"train.{kind}")}
        reviews, _, _ = data.load_split(Namespace(**given), "train")
        assert list(reviews) == ["a", "c"]
        assert reviews.soft == pytest.approx(numpy.array([[0.1, 0.9], [0.55, 0.45]]), abs=1e-7)


def write(folder, label):
    """Three splits, in train with half as many negative reviews; label: called with each name."""
    folder.mkdir()
    for split, seed in (("train", 1), ("validation", 2), ("test", 3)):
        rows = tiny.reviews(40, seed)
        rows = [*rows[:20], *rows[21:40:2]] if split == "train" else rows
        tiny.write(folder / f"{split}.jsonl", [(text, label(name)) for text, name in rows])
    return folder


def certain(name):
    return {"negative": 0, "positive": 0, name: 1}


def doubtful(name):
    return {"negative": 0.3, "positive": 0.3, name: 0.7}


def result(folder):
    """The losses, evaluations, rows and weights of a run."""
    steps, scored = tiny.read_log(folder)
    rows = [part["rows"] for part in tiny.read(folder, "run.json")["reviews"].values()]
    return [step["loss"] for step in steps], scored, rows, load_file(folder / "model.safetensors")


def assert_same(folder, other):
    *figures, weights = result(folder)
    *others, wanted = result(other)
    assert figures == others
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


SETTINGS = {"num_train_epochs": 2, "train_batch_size": 8, "learning_rate": 3e-3}


def test_a_probability_of_1_is_a_hard_label(tmp_path, distilbert):
    """In samples, class weights, losses, temperature, scores and baselines."""
    more = {"class_weight": "balanced", "max_train_samples": 20}
    runs, scores = [], []
    for name, label in (("names", str), ("objects", certain)):
        folder = write(tmp_path / name, label)
        runs.append(tiny.train(distilbert, folder, folder / "run", **SETTINGS, **more))
        evaluate.main([*tiny.flags(model_name_or_path=runs[-1]), "--baseline"])
        scores.append(tiny.read(runs[-1], "metrics.json"))
    assert_same(*runs)
    for name in ("loss", "baselines", "confusion_matrix"):
        assert scores[0][name] == scores[1][name]


def test_a_run_on_soft_labels_resumes(tmp_path, distilbert, monkeypatch):
    folder = write(tmp_path / "data", doubtful)
    tiny.train(distilbert, folder, tmp_path / "whole", **SETTINGS)
    with monkeypatch.context() as patch:
        tiny.crash_at(patch, batches, "dropout_seed", 6)
        with pytest.raises(tiny.Crash):
            tiny.train(distilbert, folder, tmp_path / "crashed", **SETTINGS)
    tiny.train(distilbert, folder, tmp_path / "crashed", resume=True, **SETTINGS)
    assert_same(tmp_path / "crashed", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    model = tiny.save_model(tmp_path / "model", "distilbert", **tiny.NO_DROPOUT)
    folder = write(tmp_path / "data", doubtful)
    tiny.train(model, folder, tmp_path / "one", **SETTINGS)
    given = {"model_name_or_path": model, "dataset_name": folder, "mixed_precision": "no"}
    argv = tiny.flags(**given, output_dir=tmp_path / "two", **SETTINGS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    done = tiny.process(*launcher, 2, "train.py", *argv)
    assert done.returncode == 0, done.stderr
    losses, *_ = result(tmp_path / "one")
    assert result(tmp_path / "two")[0] == pytest.approx(losses, rel=1e-6)
