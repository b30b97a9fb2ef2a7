"""Better soft labels, from a second model that reads words instead of tokens in context.

    python benchmarks/cotrain.py --dataset_name soft.jsonl > better.jsonl
    python train.py --dataset_name better.jsonl --label_column probabilities

predict.py --jsonl --output_format jsonl writes soft.jsonl. A TF-IDF regression on words and word
pairs learns these probabilities from four fifths of the texts and labels the last fifth; five such
rounds label all. A new label is one third the old one and two thirds the regression's. The two
models err on different texts, so the mean can be better than either (compare Blum & Mitchell 1998,
co-training): for MiniLM on IMDb, see study.md. Labels of probability 1, such as names, are kept.
Several text columns become one, "text".
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy
from scipy.sparse import vstack
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from evaluate import WORDS
from sentiment import data
from sentiment.errors import UserError
from sentiment.runtime.exits import script
from sentiment.runtime.flags import Parser

FOLDS, SHARE = 5, 2 / 3


def relabel(texts, probabilities):
    """The regression's probabilities, float64 [N, C], given those to learn from [N, C].

    LogisticRegression takes no soft labels, so each text is given once per class, weighted by that
    class's probability. The loss is the same cross-entropy.
    """
    words, classes = WORDS.fit_transform(texts), probabilities.shape[1]
    answers = numpy.empty(probabilities.shape)
    for known, asked in KFold(FOLDS, shuffle=True, random_state=0).split(answers):
        regression = LogisticRegression(C=100, max_iter=1000)
        regression.fit(
            vstack([words[known]] * classes),
            numpy.repeat(numpy.arange(classes), len(known)),
            sample_weight=probabilities[known].ravel(order="F"),
        )
        answers[asked] = regression.predict_proba(words[asked])
    return answers


@script
def main(argv=None):
    parser = Parser(description="Average soft labels with those of a regression on words.")
    add = parser.group("data")
    add("--dataset_name", str, "outputs/soft.jsonl", "file of texts and their probabilities")
    add("--text_column", str, "text", "text column, or several to join by a space: title,body")
    add("--label_column", str, "probabilities", "objects {name: probability}; some may be names")
    args = parser.parse_args(argv)
    settings = argparse.Namespace(**data.DEFAULTS | vars(args))
    reviews, classes, report = data.load_split(settings, "train")
    where = f"--dataset_name {args.dataset_name}"
    if reviews is None or len(reviews) < FOLDS or len(classes) < 2:
        raise UserError(f"{where}: needs a file of {FOLDS} texts or more, and two classes")
    if reviews.soft is None:
        raise UserError(f"{where}: --label_column {args.label_column} has names alone")
    given = reviews.soft
    answers = relabel(reviews, given)
    agreed = (answers.argmax(axis=1) == given.argmax(axis=1)).mean()
    report += [f"{len(reviews):,} labels, {agreed:.1%} of them also the regression's"]
    print("\n".join(report), file=sys.stderr)
    share = numpy.where(given.max(axis=1, keepdims=True) == 1, 0, SHARE)
    labels = (1 - share) * given + share * answers
    for text, row in zip(reviews, labels.tolist(), strict=True):
        row = dict(zip(classes, row, strict=True))
        print(json.dumps({"text": text, "probabilities": row}))


if __name__ == "__main__":
    main()
