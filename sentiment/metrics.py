"""Logits and labels -> numbers. The numbers are scikit-learn's."""

import torch
from sklearn import metrics as sklearn_metrics

from sentiment import intervals

FIGURES = ("accuracy", "f1", "precision", "recall", "roc_auc", "loss", "calibration_error", "brier_score")


def positive_class(names):
    """Id of the class that precision, recall and F1 are about when there are two: "positive", else the second."""
    folded = [name.casefold() for name in names]
    return folded.index("positive") if "positive" in folded else 1


def averaging(names):
    """What scikit-learn averages over: the positive class alone for two classes, else all of them (macro)."""
    if len(names) == 2:
        return {"average": "binary", "pos_label": positive_class(names), "zero_division": 0}
    return {"average": "macro", "zero_division": 0}


def score(logits, labels, names):
    """Metrics of float [N, C] logits against N class ids, as plain numbers for metrics.json.

    f1, precision and recall are those of the positive class for two classes, else the mean (macro) over the classes
    that have a review or a prediction; roc_auc is one against the rest, None where a class has no review. loss: mean
    cross-entropy in nats; calibration_error: see there; brier_score: half the mean squared distance of the
    probabilities from the truth, from 0 (best) to 1. intervals: 95%, by sentiment/intervals.py. confusion_matrix: one
    row for each true class, one column for each predicted one.
    """
    labels = torch.as_tensor(labels)
    probabilities = logits.double().softmax(dim=1)
    predictions = probabilities.argmax(dim=1)
    ids = range(len(names))
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(labels, predictions, **averaging(names))
    confusion = sklearn_metrics.confusion_matrix(labels, predictions, labels=ids)
    per_class = sklearn_metrics.precision_recall_fscore_support(labels, predictions, labels=ids, zero_division=0)
    accuracy = float(sklearn_metrics.accuracy_score(labels, predictions))
    averaged = [positive_class(names)] if len(names) == 2 else ids
    aucs = {}
    if len(labels.unique()) == len(names):
        aucs = {i: float(sklearn_metrics.roc_auc_score(labels == i, probabilities[:, i])) for i in averaged}
    return {
        "accuracy": accuracy,
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "roc_auc": sum(aucs.values()) / len(aucs) if aucs else None,
        "loss": torch.nn.functional.cross_entropy(logits.double(), labels).item(),
        "calibration_error": calibration_error(probabilities, labels),
        "brier_score": float(sklearn_metrics.brier_score_loss(labels, probabilities, labels=ids, scale_by_half=True)),
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
    """95% intervals as {"accuracy": (low, high), "f1": ..., "roc_auc": ... or None}.

    confusion: int [C, C]; averaged: ids of the classes that F1 averages over; aucs: {class id: its area}, or nothing.
    """
    total, hits, true, predicted = confusion.sum(), confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    seen = [i for i in averaged if true[i] + predicted[i]] or averaged
    areas = [intervals.roc_auc(auc, int(true[i]), int(total - true[i])) for i, auc in aucs.items()]
    return {
        "accuracy": intervals.wilson(int(hits.sum()), int(total)),
        "f1": intervals.mean([intervals.f1(int(hits[i]), int(true[i] + predicted[i] - 2 * hits[i])) for i in seen]),
        "roc_auc": intervals.mean(areas) if areas else None,
    }


def reliability_bins(probabilities, labels):
    """Reviews grouped by confidence, the probability of the predicted class, into ten equal widths from 0 to 1.

    A list of {"confidence": mean, "accuracy": share that is right, "reviews": n}, bins without a review left out.
    """
    confidence, predictions = probabilities.max(dim=1)
    right = (predictions == labels).double()
    numbers = (10 * confidence).ceil().clamp(1, 10).long() - 1
    groups = [numbers == number for number in numbers.unique()]
    return [
        {"confidence": confidence[g].mean().item(), "accuracy": right[g].mean().item(), "reviews": int(g.sum())}
        for g in groups
    ]


def calibration_error(probabilities, labels):
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017): the mean distance of a review's bin from
    accuracy = confidence.
    """
    bins = reliability_bins(probabilities, labels)
    return sum(b["reviews"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / len(labels)


def table(metrics):
    """The metrics as lines for a terminal."""
    names, width = metrics["labels"], max(20, *(len(name) + 2 for name in metrics["labels"]))
    of = f"of {names[positive_class(names)]!r}" if len(names) == 2 else "mean over classes"
    notes = {"f1": of, "precision": of, "recall": of}
    notes |= {"loss": "0 is best", "calibration_error": "0 is best", "brier_score": "0 is best"}
    lines = [f"{'reviews':<{width}}{metrics['reviews']:>10,}  95% interval"]
    for name in FIGURES:
        value = f"{metrics[name]:.4f}" if metrics[name] is not None else "-"
        note = notes.get(name, "") if metrics[name] is not None else "a class has no review"
        lines += [f"{name:<{width}}{value:>10}  {interval_in_words(metrics, name):<18}{note}".rstrip()]
    lines += ["", f"{'class':<{width}}" + "".join(f"{h:>10}" for h in ("reviews", "f1", "precision", "recall"))]
    for name, row in metrics["per_class"].items():
        values = "".join(f"{row[key]:>10.4f}" for key in ("f1", "precision", "recall"))
        lines += [f"{name:<{width}}{row['reviews']:>10,}{values}"]
    lines += ["", f"{'true':<{width}}" + "".join(f"{'as ' + name:>{width}}" for name in names)]
    for name, row in zip(names, metrics["confusion_matrix"], strict=True):
        lines += [f"{name:<{width}}" + "".join(f"{count:>{width},}" for count in row)]
    if compared := metrics.get("baselines"):
        lines += ["", f"{'baseline':<{width}}{'accuracy':>10}{'f1':>10}  the model's accuracy is better by"]
    for name, row in (compared or {}).items():
        figures = f"{row['accuracy']:>10.4f}{row['f1']:>10.4f}"
        lines += [f"{name:<{width}}{figures}  {difference_in_words(row)}"]
    return "\n".join([*lines, "", limits_in_words(metrics)])


def interval_in_words(metrics, name):
    """Such as "0.7906 to 0.9244", or nothing for a metric without an interval."""
    low, high = metrics["intervals"].get(name) or (None, None)
    return f"{low:.4f} to {high:.4f}" if low is not None else ""


def difference_in_words(baseline):
    """Such as "5.0 points, 95% interval 0.9 to 9.3: worth it"."""
    low, high = (100 * limit for limit in baseline["difference_interval"])
    verdict = "worth it" if low > 0 else "not worth it" if high < 0 else "not told apart"
    return f"{100 * baseline['difference']:.1f} points, 95% interval {low:.1f} to {high:.1f}: {verdict}"


def limits_in_words(metrics):
    """One line that says what this number of reviews can and cannot tell apart."""
    low, high = metrics["intervals"]["accuracy"]
    apart = 100 * intervals.least_difference((low + high) / 2, metrics["reviews"])
    return (
        f"{metrics['reviews']:,} reviews place the accuracy between {low:.1%} and {high:.1%}; another model, on as "
        f"many others, is told apart from {apart:.1f} points of difference on"
    )
