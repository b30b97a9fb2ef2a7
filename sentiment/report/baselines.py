"""Baselines that the model must beat, trained on the same reviews."""

import torch
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch.nn.functional import one_hot

from sentiment import intervals, metrics

WORDS = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
BASELINES = {
    "majority class": DummyClassifier(strategy="most_frequent"),
    "TF-IDF regression": make_pipeline(WORDS, LogisticRegression(C=10, max_iter=1000)),
}


def compare(train_texts, train_labels, test_texts, test_labels, predictions, names):
    """{baseline: {"accuracy", "f1", "difference", "difference_interval"}} for metrics.json.

    difference: the model's accuracy minus the baseline's.
    """
    labels, n, result = torch.as_tensor(test_labels), len(test_labels), {}
    model_right = predictions == labels
    for name, baseline in BASELINES.items():
        guesses = torch.as_tensor(baseline.fit(train_texts, train_labels).predict(test_texts))
        scores = metrics.score(one_hot(guesses, len(names)), labels, names)
        right = guesses == labels
        model_only = int((model_right & ~right).sum())
        other_only = int((right & ~model_right).sum())
        result[name] = {
            "accuracy": scores["accuracy"],
            "f1": scores["f1"],
            "difference": (model_only - other_only) / n,
            "difference_interval": intervals.paired_difference(model_only, other_only, n),
        }
    return result
