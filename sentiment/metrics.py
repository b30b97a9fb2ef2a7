"""Logits and labels -> numbers, by scikit-learn."""

from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix, roc_auc_score
from sklearn.metrics import precision_recall_fscore_support as class_scores
from torch import as_tensor
from torch.nn.functional import cross_entropy

from sentiment import intervals

PUBLISHED = ("accuracy", "f1", "precision", "recall", "roc_auc")  # in the card's model-index
LOSSES = ("loss", "calibration_error", "brier_score")  # 0 is best
FIGURES = PUBLISHED + LOSSES


def averaged(names, *found):
    """Ids of the classes to average over: all, or of two "positive", else the second; of these,
    those in one of the sequences `found`, if any.
    """
    positive = int(names[0].casefold() != "positive")
    ids = range(len(names)) if len(names) > 2 else [positive]
    return [i for i in ids if any(i in each for each in found)] or ids


def score(logits, labels, names):
    """Metrics of [N, C] logits against N class ids, as plain numbers for metrics.json.

    roc_auc: one-vs-rest, None if a class has no review; loss: mean cross-entropy in nats;
    calibration_error: the expected one (Guo et al. 2017); brier_score: from 0 (best) to 1;
    confusion_matrix: a row for each true class.
    """
    logits, labels, ids = logits.double(), as_tensor(labels), range(len(names))
    probabilities = logits.softmax(dim=1)
    predictions = probabilities.argmax(dim=1)
    confusion = confusion_matrix(labels, predictions, labels=ids)
    rates = class_scores(labels, predictions, labels=ids, zero_division=0)[:3]
    rows = zip(*(values.tolist() for values in (*rates, confusion.sum(axis=1))), strict=True)
    seen, aucs = averaged(names, labels, predictions), {}
    precision, recall, f1 = (float(values[seen].mean()) for values in rates)
    if confusion.any(axis=1).all():
        aucs = {i: roc_auc_score(labels == i, probabilities[:, i]) for i in seen}
    bins = reliability_bins(probabilities, labels)
    gaps = [n * abs(accuracy - confidence) for confidence, accuracy, n in bins]
    return {
        "accuracy": accuracy_score(labels, predictions),
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "roc_auc": sum(aucs.values()) / len(aucs) if aucs else None,
        "loss": cross_entropy(logits, labels).item(),
        "calibration_error": sum(gaps) / len(labels),
        "brier_score": brier_score_loss(labels, probabilities, labels=ids, scale_by_half=True),
        "reviews": len(labels),
        "intervals": metric_intervals(confusion, seen, aucs),
        "confusion_matrix": confusion.tolist(),
        "labels": names,
        "per_class": {
            name: {"precision": p, "recall": r, "f1": f, "reviews": n}
            for name, (p, r, f, n) in zip(names, rows, strict=True)
        },
    }


def temperature(logits, labels):
    """What [N, C] logits are divided by for the least cross-entropy (Guo et al. 2017): 0.1 to 10.

    One more review of each class keeps it finite if all are right.
    """
    logits, (reviews, classes) = logits.double(), logits.shape
    smoothing = classes / (reviews + classes)

    def loss(divisor):
        return cross_entropy(logits / divisor, labels, label_smoothing=smoothing).item()

    return minimize_scalar(loss, bounds=(0.1, 10)).x


def metric_intervals(confusion, seen, aucs):
    """95%: {"accuracy": (low, high), "f1": ..., "roc_auc": ... or None}. aucs: {class id: area}."""
    hits, true = confusion.diagonal().tolist(), confusion.sum(axis=1).tolist()
    sums, total = (confusion.sum(axis=0) + true).tolist(), sum(true)
    f1s = [intervals.f1(hits[i], sums[i] - 2 * hits[i]) for i in seen]
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
    numbers = (10 * confidence).ceil()
    bins = [numbers == number for number in numbers.unique()]
    return [(confidence[b].mean().item(), right[b].mean().item(), int(b.sum())) for b in bins]
