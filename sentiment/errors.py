"""Failures reported in one line, without a traceback."""

import signal


class UserError(Exception):
    """A user error: what was given, what is possible, what to do. Exit code 2."""


class RunError(Exception):
    """A failure while running, such as a loss that is not finite. Exit code 1."""


class Stopped(BaseException):
    """The job was asked to stop, for example by a scheduler. Exit code 143, or 130 for Ctrl-C.

    received: numbers of the signals, the first one decides; none if another process got them.
    """

    def __init__(self, received=()):
        by = f"by {signal.Signals(received[0]).name}" if received else "by a peer's signal"
        super().__init__(f"stopped {by}")
        self.code = 130 if received and received[0] == signal.SIGINT else 143


def is_out_of_memory(error):
    """Whether memory ran out, a GPU's or the machine's."""
    # They have no type in common.
    texts = "out of memory", "STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory"
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    return said or isinstance(error, MemoryError)


def first_line(error):
    """The first line of an exception's message, or its type if it has none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
