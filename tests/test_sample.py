"""The sample is reproducible, and reaches what README.md shows."""

import csv
import importlib.util
import sys
from collections import Counter

import pytest
import tiny
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

SAMPLE = tiny.ROOT / "sample"


def rows(split):
    with open(SAMPLE / "reviews" / f"{split}.csv", encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def make_sample():
    spec = importlib.util.spec_from_file_location("make_sample", SAMPLE / "make_sample.py")
    module = sys.modules["make_sample"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_make_sample_reproduces_the_reviews_and_the_tokenizer(tmp_path, make_sample):
    splits = make_sample.make_reviews(1)
    make_sample.write_reviews(splits, tmp_path)
    for name in ("train.csv", "test.csv"):
        assert (tmp_path / name).read_bytes() == (SAMPLE / "reviews" / name).read_bytes()
    own = {text for split in splits.values() for text, _ in split}
    rated = make_sample.make_pretraining_texts(2, 160000, exclude=own)
    assert own.isdisjoint(text for text, _ in rated)
    make_sample.make_tokenizer([text for text, _ in rated]).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (
        SAMPLE / "model" / "tokenizer.json"
    ).read_bytes()


def test_sample_reviews_are_realistic_in_length_balanced_and_unique():
    everything = rows("train") + rows("test")
    assert (len(rows("train")), len(rows("test"))) == (1000, 200)
    assert Counter(label for _, label in everything) == {"negative": 600, "positive": 600}
    assert len({text for text, _ in everything}) == 1200
    lengths = [len(text.split()) for text, _ in everything]
    assert min(lengths) >= 20
    assert max(lengths) <= 200
    assert sum(path.stat().st_size for path in (SAMPLE / "model").iterdir()) < 2e6


def test_counting_words_is_not_enough():
    (texts, labels), (test_texts, test_labels) = (
        zip(*rows(split), strict=True) for split in ("train", "test")
    )
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    regression = LogisticRegression(C=100, max_iter=1000).fit(
        vectorizer.fit_transform(texts), labels
    )
    assert 0.7 < regression.score(vectorizer.transform(test_texts), test_labels) < 0.95


@pytest.mark.slow
def test_the_readme_job_reaches_its_accuracy(tmp_path):
    argv = tiny.flags(
        model_name_or_path=SAMPLE / "model", dataset_name=SAMPLE / "reviews", learning_rate=3e-4
    )
    argv += ["--output_dir", "run", "--max_eval_samples", "0"]
    done = tiny.script("train", *argv, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tiny.read(tmp_path / "run", "metrics.json")["accuracy"] >= 0.9
    texts = ["An absolutely wonderful, moving film.", "A dull, awful mess. I hated every minute."]
    done = tiny.script("predict", *texts, "--model_name_or_path", "run", cwd=tmp_path)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["positive", "negative"]
