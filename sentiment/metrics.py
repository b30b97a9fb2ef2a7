"""Logits and labels -> numbers, by scikit-learn."""

import torch
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix, roc_auc_score
from sklearn.metrics import precision_recall_fscore_support as class_scores

from sentiment import intervals

PUBLISHED = ("accuracy", "f1", "precision", "recall", "roc_auc")  # in the card's model-index
FIGURES = (*PUBLISHED, "loss", "calibration_error", "brier_score")
MACRO = {"average": "macro", "zero_division": 0}  # for scikit-learn


def positive_class(names):
    """Id of the positive class for F1: "positive", or the second of two."""
    folded = [name.casefold() for name in names]
    return folded.index("positive") if "positive" in folded else 1


def averaged(names):
    """Ids of the classes to average over: of two only the positive one, else None for all."""
    return [positive_class(names)] if len(names) == 2 else None


def score(logits, labels, names):
    """Metrics of float [N, C] logits against N class ids, as plain numbers for metrics.json.

    roc_auc: one-vs-rest, None if a class has no review; loss: mean cross-entropy in nats;
    brier_score: from 0 (best) to 1; confusion_matrix: a row for each true class.
    """
    labels = torch.as_tensor(labels)
    probabilities = logits.double().softmax(dim=1)
    predictions = probabilities.argmax(dim=1)
    ids = range(len(names))
    precision, recall, f1, _ = class_scores(labels, predictions, labels=averaged(names), **MACRO)
    per_class = class_scores(labels, predictions, labels=ids, zero_division=0)
    confusion = confusion_matrix(labels, predictions, labels=ids)
    counted, aucs = averaged(names) or ids, {}
    if len(labels.unique()) == len(names):
        aucs = {i: float(roc_auc_score(labels == i, probabilities[:, i])) for i in counted}
    brier = brier_score_loss(labels, probabilities, labels=ids, scale_by_half=True)
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "roc_auc": sum(aucs.values()) / len(aucs) if aucs else None,
        "loss": torch.nn.functional.cross_entropy(logits.double(), labels).item(),
        "calibration_error": calibration_error(probabilities, labels),
        "brier_score": float(brier),
        "reviews": len(labels),
        "intervals": metric_intervals(confusion, counted, aucs),
        "confusion_matrix": confusion.tolist(),
        "labels": list(names),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "reviews": int(n)}
            for name, p, r, f, n in zip(names, *per_class, strict=True)
        },
    }


def metric_intervals(confusion, averaged, aucs):
    """95%: {"accuracy": (low, high), "f1": ..., "roc_auc": ... or None}. aucs: {class id: area}."""
    hits, true = confusion.diagonal().tolist(), confusion.sum(axis=1).tolist()
    counted, total = (confusion.sum(axis=0) + true).tolist(), sum(true)
    seen = [i for i in averaged if counted[i]] or averaged
    f1s = [intervals.f1(hits[i], counted[i] - 2 * hits[i]) for i in seen]
    areas = [intervals.roc_auc(auc, true[i], total - true[i]) for i, auc in aucs.items()]
    return {
        "accuracy": intervals.wilson(sum(hits), total),
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
