"""Logits and labels -> numbers. The numbers are scikit-learn's."""

import torch
from sklearn import metrics as sklearn_metrics


def positive_class(names):
    """Id of the class that precision, recall and F1 are about when there are two: "positive", else the second."""
    folded = [name.casefold() for name in names]
    return folded.index("positive") if "positive" in folded else 1


def score(logits, labels, names):
    """Metrics of float [N, C] logits against N class ids, as plain numbers for metrics.json.

    f1, precision and recall are those of the positive class for two classes, else the mean (macro) over the classes
    that have a review or a prediction; roc_auc is one against the rest, None where a class has no review. loss: mean
    cross-entropy in nats. confusion_matrix: one row for each true class, one column for each predicted one.
    """
    labels = torch.as_tensor(labels)
    probabilities = logits.double().softmax(dim=1)
    predictions = probabilities.argmax(dim=1)
    ids = range(len(names))
    if len(names) == 2:
        positive = positive_class(names)
        averaging = {"average": "binary", "pos_label": positive}
        ranking = (labels == positive, probabilities[:, positive])
    else:
        averaging = {"average": "macro"}
        ranking = (labels, probabilities)
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        labels, predictions, zero_division=0, **averaging
    )
    every_class_seen = len(labels.unique()) == len(names)
    per_class = sklearn_metrics.precision_recall_fscore_support(labels, predictions, labels=ids, zero_division=0)
    return {
        "accuracy": float(sklearn_metrics.accuracy_score(labels, predictions)),
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "roc_auc": float(sklearn_metrics.roc_auc_score(*ranking, multi_class="ovr")) if every_class_seen else None,
        "loss": torch.nn.functional.cross_entropy(logits.double(), labels).item(),
        "reviews": len(labels),
        "confusion_matrix": sklearn_metrics.confusion_matrix(labels, predictions, labels=ids).tolist(),
        "labels": list(names),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "reviews": int(n)}
            for name, p, r, f, n in zip(names, *per_class, strict=True)
        },
    }


def table(metrics):
    """The metrics as lines for a terminal."""
    names, width = metrics["labels"], max(12, *(len(name) + 2 for name in metrics["labels"]))
    averaged = f"of {names[positive_class(names)]!r}" if len(names) == 2 else "mean over classes"
    lines = [f"{'reviews':<{width}}{metrics['reviews']:>10,}", f"{'accuracy':<{width}}{metrics['accuracy']:>10.4f}"]
    lines += [f"{name:<{width}}{metrics[name]:>10.4f}  {averaged}" for name in ("f1", "precision", "recall")]
    auc = metrics["roc_auc"]
    lines += [f"{'roc_auc':<{width}}" + (f"{auc:>10.4f}" if auc is not None else f"{'-':>10}  a class has no review")]
    lines += [f"{'loss':<{width}}{metrics['loss']:>10.4f}", ""]
    lines += [f"{'class':<{width}}" + "".join(f"{h:>10}" for h in ("reviews", "f1", "precision", "recall"))]
    for name, row in metrics["per_class"].items():
        values = "".join(f"{row[key]:>10.4f}" for key in ("f1", "precision", "recall"))
        lines += [f"{name:<{width}}{row['reviews']:>10,}{values}"]
    lines += ["", f"{'true':<{width}}" + "".join(f"{'as ' + name:>{width + 3}}" for name in names)]
    for name, row in zip(names, metrics["confusion_matrix"], strict=True):
        lines += [f"{name:<{width}}" + "".join(f"{count:>{width + 3},}" for count in row)]
    return "\n".join(lines)
