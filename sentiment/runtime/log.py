"""log.jsonl, a tracker, and what a run prints while it trains."""

import json
import time
from pathlib import Path

from accelerate.tracking import get_available_trackers

from sentiment.errors import UserError
from sentiment.metrics import FIGURES

SECONDS = 5  # between two lines


def pick_tracker(name):
    """Accelerate's log_with: an installed tracker, or None for "none". UserError."""
    possible = ["none", *(tracker.value for tracker in get_available_trackers())]
    if name not in possible:
        raise UserError(f"--report_to {name}: choose from {', '.join(possible)}")
    return None if name == "none" else name


class TrainingLog:
    """Records steps and evaluations on the main process; does nothing on the others."""

    def __init__(self, accelerator, run, start, last_step):
        self.path = Path(run.settings["output_dir"], "log.jsonl")
        self.active, self.track = accelerator.is_main_process, accelerator.log
        self.start, self.last_step = start, last_step
        self.started = self.printed = time.perf_counter()
        config = {name: value for name, value in run.settings.items() if value is not None}
        accelerator.init_trackers("sentiment", config=config)

    def step(self, entry):
        """entry: {"step", "epoch", "loss", "learning_rate", "tokens", "seconds"}."""
        if not self.active:
            return
        self._write(entry)
        step, last, now = entry["step"], self.last_step, time.perf_counter()
        tracked = {name: entry[name] for name in ("epoch", "loss", "learning_rate")}
        tracked["tokens_per_second"] = entry["tokens"] / entry["seconds"]
        self.track(tracked, step=step)
        if step == last or now - self.printed > SECONDS:
            self.printed, speed = now, (step - self.start) / (now - self.started)
            figures = f"loss {entry['loss']:.4f}, learning rate {entry['learning_rate']:.2e}"
            left = f"{speed:.1f} steps/s, {(last - step) / speed:.0f} s left"
            print(f"{step / last:4.0%}  {figures}, {left}", flush=True)

    def evaluation(self, step, metrics):
        if self.active:
            self._write({"step": step, "eval": metrics})
            known = [name for name in FIGURES if metrics[name] is not None]
            self.track({f"eval/{name}": metrics[name] for name in known}, step=step)
            scores = f"test accuracy {metrics['accuracy']:.4f}, F1 {metrics['f1']:.4f}"
            print(f"after {step} steps: {scores}", flush=True)

    def _write(self, entry):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def read_log(folder):
    """Entries of log.jsonl up to the first truncated or foreign line; [] without the file."""
    path, entries = folder / "log.jsonl", []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            names = ("step", "loss", "learning_rate") if "loss" in entry else ("step",)
            if not all(isinstance(entry[x], int if x == "step" else float) for x in names):
                return entries
        except (ValueError, RecursionError, LookupError, TypeError):
            return entries
        entries.append(entry)
    return entries
