"""Pictures of an evaluation, of the size of a model card. matplotlib is needed for these alone."""

import numpy
import torch
from matplotlib.figure import Figure
from sklearn import metrics as sklearn_metrics

from sentiment import intervals
from sentiment.metrics import positive_class, reliability_bins

COLOURS = ("#0b6e99", "#c8553d", "#588157", "#8e6c8a", "#b08900", "#4d4d4d")
GUIDE = {"color": "#999999", "linestyle": "--", "linewidth": 1}


def draw(folder, scores, logits, labels, log):
    """Write the pictures into `folder`; returns {file name: what it shows}.

    scores: as metrics.score gives them; logits: float [N, classes]; labels: N class ids; log: entries of log.jsonl,
    without which the picture of the training is left out.
    """
    probabilities = logits.double().softmax(dim=1)
    updates = [entry for entry in log if "loss" in entry]
    pictures = {
        "confusion.png": ("confusion matrix", 1, confusion, (scores,)),
        "curves.png": ("ROC and precision-recall curves", 2, curves, (scores, probabilities, labels)),
        "reliability.png": ("accuracy at each confidence", 1, reliability, (scores, probabilities, labels)),
    }
    if updates:
        pictures["training.png"] = ("loss and learning rate over the updates", 1, training, (updates,))
    for name, (_, columns, paint, arguments) in pictures.items():
        figure = Figure(figsize=(5 * columns, 4), dpi=120, facecolor="white", layout="constrained")
        paint(figure.subplots(1, columns), *arguments)
        figure.savefig(folder / name)
    return {name: caption for name, (caption, *_) in pictures.items()}


def confusion(axes, scores):
    """Counts, coloured by the share of the true class."""
    counts, names = numpy.array(scores["confusion_matrix"]), scores["labels"]
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in numpy.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}\n{shares[row, column]:.0%}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true", title=f"{scores['reviews']:,} reviews, share of the true class")


def curves(axes, scores, probabilities, labels):
    """ROC and precision-recall: of the positive class for two classes, else of each class against the rest."""
    names = scores["labels"]
    shown = [positive_class(names)] if len(names) == 2 else range(len(names))
    roc, precision_recall = axes
    for i, colour in zip(shown, COLOURS * len(names), strict=False):
        is_class = numpy.asarray(labels) == i
        if not is_class.any() or is_class.all():
            continue  # no curve without both kinds
        false_rate, true_rate, _ = sklearn_metrics.roc_curve(is_class, probabilities[:, i])
        roc.plot(false_rate, true_rate, color=colour, label=names[i])
        precision, recall, _ = sklearn_metrics.precision_recall_curve(is_class, probabilities[:, i])
        precision_recall.step(recall, precision, color=colour, where="post", label=names[i])
    roc.plot([0, 1], [0, 1], **GUIDE)
    auc = f", area {scores['roc_auc']:.3f}" if scores["roc_auc"] is not None else ""
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title=f"ROC{auc}")
    precision_recall.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02), title="precision and recall")
    for side in axes:
        if side.get_legend_handles_labels()[0]:
            side.legend(title="class", frameon=False, loc="lower right" if side is roc else "lower left")


def reliability(axes, scores, probabilities, labels):
    """Accuracy against confidence, in the bins of the expected calibration error."""
    bins = reliability_bins(probabilities, torch.as_tensor(labels))
    axes.plot([0, 1], [0, 1], **GUIDE)
    for b in bins:
        x, y = b["confidence"], b["accuracy"]
        low, high = intervals.wilson(round(y * b["reviews"]), b["reviews"])
        axes.errorbar(x, y, [[max(0, y - low)], [max(0, high - y)]], fmt="o", color=COLOURS[0], capsize=3)
        axes.annotate(f"{b['reviews']:,}", (x, y), textcoords="offset points", xytext=(6, -3), color="#4d4d4d")
    axes.set(xlabel="confidence, mean of a bin", ylabel="accuracy, with its 95% interval")
    lowest = 1 / len(scores["labels"])
    axes.set(xlim=(lowest - 0.03, 1.07), ylim=(-0.05, 1.05))
    axes.set(title=f"calibration error {scores['calibration_error']:.3f}; beside each bin its reviews")


def training(axes, updates):
    """Loss of each update and its running mean, and the learning rate."""
    steps, losses = [u["step"] for u in updates], numpy.array([u["loss"] for u in updates])
    window = max(1, len(steps) // 20)
    sums = numpy.concatenate([[0], losses.cumsum()])
    means = [(sums[i + 1] - sums[max(0, i + 1 - window)]) / min(i + 1, window) for i in range(len(steps))]
    axes.plot(steps, losses, color=COLOURS[0], alpha=0.3, linewidth=1, label="loss")
    axes.plot(steps, means, color=COLOURS[0], label=f"loss, mean of the last {window}")
    axes.set(xlabel="update", ylabel="loss", ylim=(0, None))
    rates = axes.twinx()
    rates.plot(steps, [u["learning_rate"] for u in updates], color=COLOURS[1], linestyle=":", label="learning rate")
    rates.set(ylabel="learning rate", ylim=(0, None))
    rates.yaxis.set_major_formatter("{x:.1e}")
    lines = [*axes.get_lines(), *rates.get_lines()]
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.02), "ncol": 3}
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, fontsize="small", **above)
