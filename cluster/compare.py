"""Compare two runs: python cluster/compare.py RUN_FOLDER OTHER_RUN_FOLDER

Exit code 0 if losses agree to 1e-6 (relative), and learning rates, tokens and confusion matrices
are equal; else 1. For runs with different numbers of processes, switch dropout off
(without_dropout.py), because its random numbers differ.
"""

import json
import sys
from pathlib import Path


def columns(folder):
    """{name: its values in log.jsonl}, one for each step or evaluation."""
    lines = (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    log = [json.loads(line) for line in lines]
    steps = [entry for entry in log if "loss" in entry]
    result = {name: [step[name] for step in steps] for name in ("loss", "learning_rate", "tokens")}
    matrices = [entry["eval"]["confusion_matrix"] for entry in log if "eval" in entry]
    return result | {"confusion_matrix": matrices}


def main(one, other):
    one, other = columns(one), columns(other)
    losses = one.pop("loss"), other.pop("loss")
    steps, other_steps = map(len, losses)
    if steps != other_steps:
        print(f"{steps} and {other_steps} steps")
        return 1
    loss = max(abs(a - b) / a for a, b in zip(*losses, strict=True))
    print(f"{steps} steps: largest relative difference of a loss {loss:.1e}")
    for name in one:
        print(f"{name}: {'equal' if one[name] == other[name] else 'different'}")
    return 0 if loss < 1e-6 and one == other else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
