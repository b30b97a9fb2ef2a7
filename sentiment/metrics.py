"""Logits and labels -> numbers, by scikit-learn."""

import torch
from sklearn import metrics as sklearn_metrics

from sentiment import intervals

PUBLISHED = ("accuracy", "f1", "precision", "recall", "roc_auc")  # in the card's model-index
FIGURES = (*PUBLISHED, "loss", "calibration_error", "brier_score")


def positive_class(names):
    """Id of the positive class for F1: "positive", or the second of two."""
    folded = [name.casefold() for name in names]
    return folded.index("positive") if "positive" in folded else 1


def averaging(names):
    """scikit-learn's arguments: for two classes the positive one alone, else macro."""
    if len(names) == 2:
        return {"average": "binary", "pos_label": positive_class(names), "zero_division": 0}
    return {"average": "macro", "zero_division": 0}


def score(logits, labels, names):
    """Metrics of float [N, C] logits against N class ids, as plain numbers for metrics.json.

    roc_auc: one-vs-rest, None if a class has no review; loss: mean cross-entropy in nats;
    brier_score: from 0 (best) to 1; confusion_matrix: a row for each true class.
    """
    labels = torch.as_tensor(labels)
    probabilities = logits.double().softmax(dim=1)
    predictions = probabilities.argmax(dim=1)
    ids, scores = range(len(names)), sklearn_metrics.precision_recall_fscore_support
    precision, recall, f1, _ = scores(labels, predictions, **averaging(names))
    per_class = scores(labels, predictions, labels=ids, zero_division=0)
    confusion = sklearn_metrics.confusion_matrix(labels, predictions, labels=ids)
    averaged = [positive_class(names)] if len(names) == 2 else ids
    aucs, auc = {}, sklearn_metrics.roc_auc_score
    if len(labels.unique()) == len(names):
        aucs = {i: float(auc(labels == i, probabilities[:, i])) for i in averaged}
    brier = sklearn_metrics.brier_score_loss
    return {
        "accuracy": float(sklearn_metrics.accuracy_score(labels, predictions)),
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "roc_auc": sum(aucs.values()) / len(aucs) if aucs else None,
        "loss": torch.nn.functional.cross_entropy(logits.double(), labels).item(),
        "calibration_error": calibration_error(probabilities, labels),
        "brier_score": float(brier(labels, probabilities, labels=ids, scale_by_half=True)),
        "reviews": len(labels),
        "intervals": metric_intervals(confusion, averaged, aucs),
        "confusion_matrix": confusion.tolist(),
        "labels": list(names),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "reviews": int(n)}
            for name, p, r, f, n in zip(names, *per_class, strict=True)
        },
    }


def metric_intervals(confusion, averaged, aucs):
    """95%: {"accuracy": (low, high), "f1": ..., "roc_auc": ... or None}. aucs: {class id: area}."""
    total, hits = int(confusion.sum()), confusion.diagonal()
    true, counted = confusion.sum(axis=1), confusion.sum(axis=1) + confusion.sum(axis=0)
    seen = [i for i in averaged if counted[i]] or averaged
    f1s = [intervals.f1(int(hits[i]), int(counted[i] - 2 * hits[i])) for i in seen]
    areas = [intervals.roc_auc(auc, int(true[i]), total - int(true[i])) for i, auc in aucs.items()]
    return {
        "accuracy": intervals.wilson(int(hits.sum()), total),
        "f1": intervals.mean(f1s),
        "roc_auc": intervals.mean(areas) if areas else None,
    }


def reliability_bins(probabilities, labels):
    """Reviews by confidence, the probability of the predicted class, in ten bins of equal width:
    [(mean confidence, accuracy, reviews), ...] without empty ones.
    """
    confidence, predictions = probabilities.max(dim=1)
    right = (predictions == labels).double()
    numbers = (10 * confidence).ceil().clamp(1, 10).long()
    bins = [numbers == number for number in numbers.unique()]
    return [(confidence[b].mean().item(), right[b].mean().item(), int(b.sum())) for b in bins]


def calibration_error(probabilities, labels):
    """Expected calibration error (Guo et al. 2017): mean over reviews of their bin's gap."""
    bins = reliability_bins(probabilities, labels)
    return sum(n * abs(accuracy - confidence) for confidence, accuracy, n in bins) / len(labels)
