"""Plots of an evaluation. Nothing else needs matplotlib."""

import numpy
import torch
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from sentiment import intervals
from sentiment.metrics import averaged, reliability_bins


def draw(folder, scores, logits, labels, log):
    """Write the plots into `folder`; returns {file name: caption}."""
    labels, probabilities = torch.as_tensor(labels), logits.double().softmax(dim=1)
    steps = [entry for entry in log if "loss" in entry]
    pictures = {
        "confusion.png": ("confusion matrix", 1, confusion),
        "curves.png": ("ROC and precision-recall curves", 2, curves),
        "reliability.png": ("accuracy by confidence", 1, reliability),
    }
    if steps:
        pictures["training.png"] = "loss and learning rate by step", 1, training
    for name, (_, columns, paint) in pictures.items():
        figure = Figure(figsize=(5 * columns, 4), dpi=120, layout="constrained")
        paint(figure.subplots(1, columns), scores, probabilities, labels, steps)
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


def training(axes, *given):
    names = "step", "loss", "learning_rate"
    steps, losses, rates = ([entry[name] for entry in given[-1]] for name in names)
    axes.plot(steps, losses, ".", alpha=0.3)
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    right = axes.twinx()
    right.plot(steps, rates, ":", color="tab:red")
    right.set(ylabel="learning rate (dotted)", ylim=(0, None))
    right.yaxis.set_major_formatter("{x:.1e}")
