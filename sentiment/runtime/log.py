"""log.jsonl, a tracker, and what a run prints while it trains."""

import json
import time

from sentiment.metrics import FIGURES

SECONDS = 5  # between two lines


class TrainingLog:
    """Records steps and evaluations on the main process; does nothing on the others."""

    def __init__(self, accelerator, run, start, last_step):
        self.path = run.folder / "log.jsonl"
        self.active, self.track = accelerator.is_main_process, accelerator.log
        self.start, self.last_step = start, last_step
        self.started = self.printed = time.perf_counter()
        kept = int, float, str  # what trackers take
        config = {name: value for name, value in run.settings.items() if isinstance(value, kept)}
        accelerator.init_trackers("sentiment", config=config)

    def step(self, entry):
        """entry: {"step", "epoch", "loss", "learning_rate", "tokens", "seconds"}."""
        if not self.active:
            return
        step, last, now = entry["step"], self.last_step, time.perf_counter()
        tracked = {name: entry[name] for name in ("epoch", "loss", "learning_rate")}
        tracked["tokens_per_second"] = entry["tokens"] / entry["seconds"]
        self._record(entry, tracked)
        if step == last or now - self.printed > SECONDS:
            self.printed, speed = now, (step - self.start) / (now - self.started)
            figures = f"loss {entry['loss']:.4f}, learning rate {entry['learning_rate']:.2e}"
            left = f"{speed:.1f} steps/s, {(last - step) / speed:.0f} s left"
            print(f"{step / last:4.0%}  {figures}, {left}", flush=True)

    def evaluation(self, step, metrics):
        if self.active:
            known = [name for name in FIGURES if metrics[name] is not None]
            tracked = {f"eval/{name}": metrics[name] for name in known}
            self._record({"step": step, "eval": metrics}, tracked)
            scores = f"accuracy {metrics['accuracy']:.4f}, F1 {metrics['f1']:.4f}"
            print(f"after {step} steps: {scores}", flush=True)

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
            case {"step": int()} if "loss" not in entry:
                entries.append(entry)
            case _:
                break
    return entries
