"""On a GPU, steps are checked and logged one step late, while it computes the next."""

import math
import time
from collections import deque

import torch

from sentiment.errors import RunError

BEHIND = {"cuda": 1}  # steps that may be unread; on other devices none


class Readback:
    """Reads the figures of steps from a device, in order."""

    def __init__(self, accelerator, log):
        self.scaler, self.log = accelerator.scaler, log
        self.behind = BEHIND.get(accelerator.device.type, 0)
        self.sent, self.read_at, self.stopping = deque(), 0.0, False

    def send(self, figures, entry, started, rows):
        """figures: a tensor of loss, ranks that stop, gradient norm; entry: for the log; started:
        when the step began; rows: of its reviews.
        """
        event = torch.cuda.Event() if figures.is_cuda else None
        figures = figures.to("cpu", non_blocking=figures.is_cuda)
        if event:
            event.record()
        self.sent.append((figures, event, entry, started, rows))

    def read(self, everything):
        """Check and log steps until at most `behind` are unread; all with `everything`, or once a
        rank stops. Returns whether one does. RunError: a loss or norm is not finite.
        """
        while len(self.sent) > (0 if everything or self.stopping else self.behind):
            figures, event, entry, started, rows = self.sent.popleft()
            if event:
                event.synchronize()
            loss, stops, norm = figures.tolist()
            # fp16 overflow is no failure: the scaler skips the step and lowers its scale.
            if not math.isfinite(loss) or not (self.scaler or math.isfinite(norm)):
                problem = f"step {entry['step']}: loss {loss}, gradient norm {norm}"
                rows = ", ".join(map(str, rows))
                raise RunError(f"{problem}, on rows {rows}; try a lower --learning_rate")
            started, self.read_at = max(started, self.read_at), time.perf_counter()
            self.log.step({**entry, "loss": loss, "seconds": self.read_at - started})
            self.stopping = self.stopping or stops > 0
        return self.stopping
