"""What a run tells while it trains: a line in log.jsonl for every update, a progress bar or plain lines."""

import json
import time

from tqdm import tqdm


class TrainingLog:
    """log.jsonl in `folder`, and progress over `reviews` reviews in all: a bar where stderr is a terminal, else a
    plain line on stdout at every tenth. Does nothing on a process that is not `active`.
    """

    def __init__(self, folder, reviews, active):
        self.path, self.active = folder / "log.jsonl", active
        self.reviews, self.done, self.started = reviews, 0, time.perf_counter()
        # disable=None: a bar on a terminal only
        self.bar = tqdm(total=reviews, unit=" reviews", dynamic_ncols=True, disable=None if active else True)

    def update(self, reviews, **entry):
        """One update over `reviews` reviews; `entry` as README.md describes log.jsonl."""
        if not self.active:
            return
        self._write(entry)
        tenths, self.done = self.done * 10 // self.reviews, self.done + reviews
        figures = f"loss {entry['loss']:.4f}, learning rate {entry['learning_rate']:.2e}"
        self.bar.set_postfix_str(figures, refresh=False)
        self.bar.update(reviews)
        if self.bar.disable and self.done * 10 // self.reviews > tenths:
            speed = self.done / (time.perf_counter() - self.started)
            left = (self.reviews - self.done) / speed
            share = self.done / self.reviews
            print(f"{share:4.0%}  {figures}, {speed:.1f} reviews/s, {left:.0f} s left", flush=True)

    def evaluation(self, step, metrics):
        """The metrics after `step` updates."""
        if self.active:
            self._write({"step": step, "eval": metrics})
            with tqdm.external_write_mode():
                print(f"after {step} updates: accuracy {metrics['accuracy']:.4f}, F1 {metrics['f1']:.4f}", flush=True)

    def close(self):
        """Leave the terminal as a bar should."""
        self.bar.close()

    def _write(self, entry):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
