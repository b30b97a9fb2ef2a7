"""Baselines that the model must beat, trained on the same reviews."""

import numpy
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

from sentiment import intervals
from sentiment.metrics import MACRO, averaged

WORDS = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
BASELINES = {
    "majority class": DummyClassifier(strategy="most_frequent"),
    "TF-IDF regression": make_pipeline(WORDS, LogisticRegression(C=10, max_iter=1000)),
}


def compare(train_texts, train_labels, test_texts, test_labels, predictions, names):
    """{baseline: {"accuracy", "f1", "difference", "difference_interval"}} for metrics.json.

    difference: the model's accuracy minus the baseline's.
    """
    labels, result = numpy.asarray(test_labels), {}
    model_right = numpy.asarray(predictions) == labels
    for name, baseline in BASELINES.items():
        guesses = baseline.fit(train_texts, train_labels).predict(test_texts)
        right = guesses == labels
        model_only = int((model_right & ~right).sum())
        other_only = int((right & ~model_right).sum())
        limits = intervals.paired_difference(model_only, other_only, len(labels))
        result[name] = {
            "accuracy": float(right.mean()),
            "f1": float(f1_score(labels, guesses, labels=averaged(names), **MACRO)),
            "difference": (model_only - other_only) / len(labels),
            "difference_interval": limits,
        }
    return result
