"""Compare two runs: python cluster/compare.py RUN_FOLDER OTHER_RUN_FOLDER

Prints the largest differences. Exit code 0 if losses agree to 1e-6 (relative), and learning rates
and evaluation counts are equal; else 1. For runs with different numbers of processes, switch
dropout off (without_dropout.py), because its random numbers differ.
"""

import json
import sys
from pathlib import Path


def entries(folder):
    lines = [
        json.loads(line)
        for line in (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [line for line in lines if "loss" in line], [
        line["eval"] for line in lines if "eval" in line
    ]


def main(one, other):
    (steps, scores), (others, other_scores) = entries(one), entries(other)
    pairs = list(zip(steps, others, strict=True))
    loss = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in pairs)
    rates = all(
        a["learning_rate"] == b["learning_rate"] and a["tokens"] == b["tokens"] for a, b in pairs
    )
    counts = [s["confusion_matrix"] for s in scores] == [
        s["confusion_matrix"] for s in other_scores
    ]
    print(
        f"{len(pairs)} steps: largest relative difference of a loss {loss:.1e}; learning "
        "rates and tokens",
        end=" ",
    )
    print(f"{'equal' if rates else 'differ'}; confusion matrices {'equal' if counts else 'differ'}")
    return 0 if loss < 1e-6 and rates and counts else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
