"""Labels that are objects of probabilities: read, checked, and trained on."""

import json
from argparse import Namespace

import numpy
import pytest
import tiny

from sentiment import data
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
        # as text in JSON, in which datasets puts objects after many names
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
        ([SURE, {"positive": 1}], "row 1: .* for each of negative, positive"),
        ([SURE, {"neutral": 0.5, "positive": 0.5}], "for each of negative, positive, neutral"),
        ([{"negative": "much", "positive": "more"}], "row 0: "),
        ([{"": 0.5, "positive": 0.5}], "row 0: "),
        ([SURE, "neutral"], "are of negative, positive, but other rows say neutral; .*label_map"),
        ([SURE, 1], "but other rows say 1"),
        ([SURE, ["positive"]], r"but other rows say \["),
        ([["positive"], ["negative"]], r"unlike \['positive'\]; see --label_column"),
        (["good", 1], "unlike 'good'; see --label_column"),
        (["good", '{"broken'], "cannot be read"),
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


@pytest.fixture
def folders(tmp_path):
    """One data set with names for labels, one with objects of a probability of 1."""
    for kind in ("names", "objects"):
        (tmp_path / kind).mkdir()
        for split, count in (("train", 41), ("validation", 20), ("test", 20)):
            rows = tiny.reviews(count, seed=count)
            if kind == "objects":
                zeros = {"negative": 0, "positive": 0}
                rows = [(text, {**zeros, label: 1}) for text, label in rows]
            tiny.write(tmp_path / kind / f"{split}.jsonl", rows)
    return [tmp_path / "names", tmp_path / "objects"]


def test_a_probability_of_1_is_a_hard_label(tmp_path, distilbert, folders):
    """In the losses, scores, samples, and class weights."""
    logs, more = [], {"class_weight": "balanced", "label_smoothing_factor": 0.1}
    for folder in folders:
        given = {"num_train_epochs": 1, "max_train_samples": 20, "train_batch_size": 8, **more}
        run = tiny.train(distilbert, folder, tmp_path / f"run {folder.name}", **given)
        steps, scored = tiny.read_log(run)
        rows = tiny.read(run, "run.json")["reviews"]["train"]["rows"]
        logs.append(([step["loss"] for step in steps], scored, rows))
    (losses, *others), (ours, *more) = logs
    assert ours == pytest.approx(losses, rel=1e-6)
    assert more == others


def test_label_smoothing_is_for_names_unless_asked_for(tmp_path, distilbert, folders):
    found = []
    for folder in folders:
        run = tiny.train(distilbert, folder, tmp_path / folder.name / "run", num_train_epochs=1)
        found.append(tiny.read(run, "run.json")["settings"]["label_smoothing_factor"])
    assert found == [0.1, 0]
