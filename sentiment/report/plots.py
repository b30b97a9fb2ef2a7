"""Plots of an evaluation. Nothing else needs matplotlib."""

import numpy
import torch
from matplotlib import rcParams
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from sentiment import intervals
from sentiment.metrics import averaged, reliability_bins

rcParams["text.parse_math"] = False  # names may hold $


def draw(folder, scores, logits, labels, log):
    """Write the plots into `folder`; returns {file name: caption}."""
    labels, probabilities = torch.as_tensor(labels), logits.double().softmax(dim=1)
    split = f"split {scores['split']}"
    pictures = {
        "confusion.png": (f"confusion matrix, {split}", 1, confusion),
        "curves.png": (f"ROC and precision-recall curves, {split}", 2, curves),
        "reliability.png": (f"accuracy by confidence, {split}", 1, reliability),
    }
    if log:
        kept = f"; epoch {scores['kept_epoch']} was kept" if "kept_epoch" in scores else ""
        pictures["training.png"] = f"loss and learning rate{kept}", 1, training
    for name, (caption, columns, paint) in pictures.items():
        figure = Figure(figsize=(5 * columns, 4), dpi=120, layout="constrained")
        paint(figure.subplots(1, columns), scores, probabilities, labels, log)
        figure.suptitle(caption)
        figure.savefig(folder / name)
    return {name: caption for name, (caption, *_) in pictures.items()}


def confusion(axes, scores, *_):
    counts = numpy.array(scores["confusion_matrix"])
    matrix = ConfusionMatrixDisplay(counts, display_labels=scores["labels"])
    matrix.plot(ax=axes, cmap="Blues", colorbar=False, xticks_rotation=45)


def curves(axes, scores, probabilities, labels, _):
    names = scores["labels"]
    for i in averaged(names):
        is_class = labels == i
        if len(is_class.unique()) == 2:  # no curve without both kinds
            for display, ax in zip((RocCurveDisplay, PrecisionRecallDisplay), axes, strict=True):
                display.from_predictions(is_class, probabilities[:, i], name=names[i], ax=ax)
    axes[0].plot([0, 1], [0, 1], "--", color="0.6")


def reliability(axes, scores, probabilities, labels, _):
    axes.plot([0, 1], [0, 1], "--", color="0.6")
    for x, y, reviews in reliability_bins(probabilities, labels):
        axes.plot([x, x], intervals.wilson(round(y * reviews), reviews), color="tab:blue")
        axes.plot(x, y, "o", color="tab:blue")
        axes.annotate(f"{reviews:,}", (x, y), textcoords="offset points", xytext=(6, -3))
    axes.set(xlabel="mean confidence per bin", ylabel="accuracy with 95% CI")
    axes.set(title=f"calibration error {scores['calibration_error']:.3f} (numbers: reviews)")


def training(axes, scores, probabilities, labels, log):
    curves, steps = {}, [entry for entry in log if "loss" in entry]
    for entry in log:
        scores = entry.get("eval", {"split": "training", **entry})
        curve = curves.setdefault(str(scores.get("split", "scored")), [])
        curve.append((entry["step"], scores["loss"]))
    for split, curve in curves.items():
        style = "." if split == "training" else "o-"
        axes.plot(*zip(*curve, strict=True), style, label=split, alpha=0.5)
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes.legend()
    right = axes.twinx()
    rates = [entry["learning_rate"] for entry in steps]
    right.plot([entry["step"] for entry in steps], rates, ":", color="tab:red")
    right.set(ylabel="learning rate (dotted)", ylim=(0, None))
    right.yaxis.set_major_formatter("{x:.1e}")
