"""Failures reported in one line, without a traceback."""

import signal


class UserError(Exception):
    """A user error: what was given, what is possible, what to do."""

    code = 2  # of the script's exit


class RunError(Exception):
    """A failure while running, such as a loss that is not finite."""


class Stopped(BaseException):
    """The job was asked to stop. Exit code 143, or 130 for Ctrl-C.

    received: this process's signals, the first one decides; none if a peer got them.
    """

    def __init__(self, received=()):
        by = signal.Signals(received[0]).name if received else "a peer's signal"
        super().__init__(f"stopped by {by}")
        self.code = 130 if by == "SIGINT" else 143


def is_out_of_memory(error):
    texts = "out of memory", "STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory"
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)


def first_line(error):
    """The first line of an exception's message, or its type if it has none."""
    lines = map(str.strip, str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
