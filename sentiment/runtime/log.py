"""log.jsonl, a tracker, and what a run prints while it trains."""

import json
import time

from sentiment.metrics import FIGURES

SECONDS = 5  # between two lines


class TrainingLog:
    """Records steps and evaluations, on the main process alone."""

    def __init__(self, accelerator, run, start):
        self.path = run.folder / "log.jsonl"
        self.active, self.track = accelerator.is_main_process, accelerator.log
        self.start, self.at, self.last_step = start, start, run.last_step
        self.started = self.printed = time.perf_counter()
        # trackers take no others
        config = {x: y for x, y in run.settings.items() if isinstance(y, int | float | str)}
        accelerator.init_trackers("sentiment", config=config)

    def step(self, entry):
        self.at = step = entry["step"]
        if not self.active:
            return
        last, now = self.last_step, time.perf_counter()
        self._record(entry, {**entry, "tokens_per_second": entry["tokens"] / entry["seconds"]})
        if step == last or now - self.printed > SECONDS:
            self.printed, speed = now, (step - self.start) / (now - self.started)
            figures = f"loss {entry['loss']:.4f}, learning rate {entry['learning_rate']:.2e}"
            left = f"{speed:.1f} steps/s, {(last - step) / speed:.0f} s left"
            print(f"{step / last:4.0%}  {figures}, {left}", flush=True)

    def evaluation(self, metrics):
        if self.active:
            split = metrics["split"]
            tracked = {f"{split}/{x}": metrics[x] for x in FIGURES if metrics[x] is not None}
            self._record({"step": self.at, "eval": metrics}, tracked)
            scores = f"accuracy {metrics['accuracy']:.4f}, F1 {metrics['f1']:.4f}"
            kept = f", epoch {metrics['kept_epoch']}" if "kept_epoch" in metrics else ""
            print(f"after {self.at} steps: {scores} ({split}{kept})", flush=True)

    def _record(self, entry, tracked):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.track(tracked, step=entry["step"])


def read_log(folder):
    """Entries of log.jsonl up to the first truncated or foreign line; [] without the file."""
    path, entries = folder / "log.jsonl", []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        match entry:
            case {"step": int(), "loss": float(), "learning_rate": float()}:
                entries.append(entry)
            case {"step": int(), "eval": {"loss": float(), "split": str()}}:
                entries.append(entry)
            case _:
                break
    return entries
