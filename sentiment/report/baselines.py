"""Baselines that the model must beat, trained on the same reviews."""

import torch
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

WORDS = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
BASELINES = {
    "majority class": DummyClassifier(strategy="most_frequent"),
    "TF-IDF regression": make_pipeline(WORDS, LogisticRegression(C=10, max_iter=1000)),
}


def predictions(train_texts, train_labels, texts):
    """{baseline: int64 class ids [N] of N `texts`}. train_labels: class ids."""
    return {
        name: torch.as_tensor(baseline.fit(train_texts, train_labels).predict(texts))
        for name, baseline in BASELINES.items()
    }
