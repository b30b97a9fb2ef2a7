"""Soft labels that a second model improves: benchmarks/cotrain.py."""

import itertools
import json
import sys
from argparse import Namespace

import numpy
import pytest
import sklearn
import tiny
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict

sys.path.insert(0, str(tiny.ROOT / "benchmarks"))
import cotrain

from sentiment import data

TEXTS = [text for text, _ in tiny.reviews(40, seed=5)]
FOLDS = KFold(5, shuffle=True, random_state=0)


def random_labels(classes):
    return numpy.random.default_rng(0).dirichlet(numpy.ones(classes), len(TEXTS))


@pytest.mark.parametrize("classes", [2, 3])
def test_certain_labels_give_the_usual_regression(classes):
    certain = numpy.eye(classes)[random_labels(classes).argmax(axis=1)]
    words = sklearn.clone(cotrain.WORDS).fit_transform(TEXTS)
    regression = LogisticRegression(C=100, max_iter=1000)
    given = {"cv": FOLDS, "method": "predict_proba"}
    wanted = cross_val_predict(regression, words, certain.argmax(axis=1), **given)
    assert cotrain.relabel(TEXTS, certain) == pytest.approx(wanted, abs=1e-3)


def test_a_soft_label_weighs_as_many_texts():
    """Of ten copies of each text, as many have a class as its probability says."""
    tenths = numpy.random.default_rng(0).integers(1, 10, len(TEXTS))
    soft = numpy.stack([tenths, 10 - tenths], axis=1) / 10
    words = sklearn.clone(cotrain.WORDS).fit_transform(TEXTS)
    known, asked = next(FOLDS.split(TEXTS))
    labels = [label for i in known for label in [0] * tenths[i] + [1] * (10 - tenths[i])]
    regression = LogisticRegression(C=10, max_iter=1000)  # the loss is ten times as large
    regression.fit(words[numpy.repeat(known, 10)], labels)
    answers = cotrain.relabel(TEXTS, soft)[asked]
    assert answers == pytest.approx(regression.predict_proba(words[asked]), abs=1e-3)


def test_no_text_is_labelled_by_what_learned_its_label():
    given = random_labels(2)
    before = cotrain.relabel(TEXTS, given)
    _, fold = next(FOLDS.split(TEXTS))
    given[fold] = given[fold, ::-1]
    after = cotrain.relabel(TEXTS, given)
    same = numpy.isclose(after, before).all(axis=1)
    assert same[fold].all()
    assert not numpy.delete(same, fold).any()


def test_the_file_holds_means_that_training_reads(tmp_path, capsys):
    given = random_labels(2)
    given[3] = [1, 0]
    rows = [
        {"body": text, "probabilities": dict(zip(["bad", "good"], row, strict=True))}
        for text, row in zip(TEXTS, given.tolist(), strict=True)
    ]
    soft, better = tmp_path / "soft.jsonl", tmp_path / "better.jsonl"
    rows += [{"body": " ", "probabilities": {}}]  # what predict.py answers to an empty text
    soft.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    cotrain.main(["--dataset_name", str(soft), "--text_column", "body"])
    shown = capsys.readouterr()
    better.write_text(shown.out, encoding="utf-8")
    assert "dropped: 1 without text" in shown.err
    settings = Namespace(
        **data.DEFAULTS | {"dataset_name": str(better), "label_column": "probabilities"}
    )
    reviews, classes, _ = data.load_split(settings, "train")
    assert list(reviews) == TEXTS
    assert classes == ["bad", "good"]
    wanted = given / 3 + cotrain.relabel(TEXTS, given.astype(numpy.float32)) * 2 / 3
    wanted[3] = given[3]
    assert reviews.soft == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("count", "label", "named"),
    [
        (4, {"a": 0.5, "b": 0.5}, "5 texts or more"),
        (9, {"a": 1.0}, "two classes"),
        (9, ["a", "b"], "names alone"),
        (9, {"a": 0.5}, "sum 1"),
    ],
)
def test_what_it_cannot_learn_from_is_one_line(tmp_path, capsys, count, label, named):
    path = tmp_path / "soft.jsonl"
    labels = itertools.cycle(label if isinstance(label, list) else [label])
    tiny.write(path, zip(TEXTS[:count], labels, strict=False))
    with pytest.raises(SystemExit) as ended:
        cotrain.main(["--dataset_name", str(path), "--label_column", "label"])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert str(path) in line
    assert named in line
