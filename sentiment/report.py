"""What a run tells while it trains: a line in log.jsonl for every update, a progress bar or plain lines, a tracker."""

import json
import time

from accelerate.tracking import get_available_trackers
from tqdm import tqdm

from sentiment.cli import UserError
from sentiment.metrics import FIGURES


def pick_tracker(name):
    """What Accelerate's log_with takes: an installed tracker, or None for "none". Raises UserError for another name."""
    possible = ["none", *(tracker.value for tracker in get_available_trackers())]
    if name not in possible:
        raise UserError(f"--report_to {name}: possible are {', '.join(possible)}; another tracker must be installed")
    return None if name == "none" else name


class TrainingLog:
    """log.jsonl in `folder`, the tracker that `accelerator` has, and progress over `reviews` reviews in all: a bar
    where stderr is a terminal, else a plain line on stdout at every tenth. Only the main process does something.
    """

    def __init__(self, accelerator, folder, reviews):
        self.path, self.active, self.track = folder / "log.jsonl", accelerator.is_main_process, accelerator.log
        self.reviews, self.done, self.skipped, self.started = reviews, 0, 0, time.perf_counter()
        # disable=None: a bar on a terminal only
        self.bar = tqdm(total=reviews, unit=" reviews", dynamic_ncols=True, disable=None if self.active else True)

    def update(self, reviews, **entry):
        """One update over `reviews` reviews; `entry` as README.md describes log.jsonl."""
        if not self.active:
            return
        self._write(entry)
        speed = entry["tokens"] / entry["seconds"]
        tracked = {key: entry[key] for key in ("loss", "learning_rate", "epoch")}
        self.track({**tracked, "tokens_per_second": speed}, step=entry["step"])
        tenths, self.done = self.done * 10 // self.reviews, self.done + reviews
        figures = f"loss {entry['loss']:.4f}, learning rate {entry['learning_rate']:.2e}"
        self.bar.set_postfix_str(figures, refresh=False)
        self.bar.update(reviews)
        if self.bar.disable and self.done * 10 // self.reviews > tenths:
            speed = (self.done - self.skipped) / (time.perf_counter() - self.started)
            left = (self.reviews - self.done) / speed
            share = self.done / self.reviews
            print(f"{share:4.0%}  {figures}, {speed:.1f} reviews/s, {left:.0f} s left", flush=True)

    def skip(self, reviews):
        """One update over `reviews` reviews that an earlier part of the run did."""
        self.done, self.skipped = self.done + reviews, self.skipped + reviews
        self.bar.update(reviews)

    def evaluation(self, step, metrics):
        """The metrics after `step` updates."""
        if self.active:
            self._write({"step": step, "eval": metrics})
            self.track({f"eval/{name}": metrics[name] for name in FIGURES if metrics[name] is not None}, step=step)
            with tqdm.external_write_mode():
                print(f"after {step} updates: accuracy {metrics['accuracy']:.4f}, F1 {metrics['f1']:.4f}", flush=True)

    def close(self):
        """Leave the terminal as a bar should."""
        self.bar.close()

    def _write(self, entry):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
