"""How a script ends: exit codes, one line for every failure, signals, a reader that is gone."""

import errno
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

from sentiment.errors import RunError, Stopped, UserError, first_line, is_out_of_memory

GONE = errno.EPIPE, errno.EIO, errno.EINVAL  # a closed pipe or terminal; a pipe on Windows
SIGNALS = [s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGUSR1")]


class Output:
    """A text stream in UTF-8 that drops what follows once its reader is gone."""

    def __init__(self, stream):
        # None: it was closed before the start.
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115
        with suppress(AttributeError):  # a notebook's
            self.stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        self.attempt(self.stream.write, text)

    def flush(self):
        self.attempt(self.stream.flush)

    def attempt(self, action, *given):
        try:
            action(*given)
        except OSError as error:  # what is buffered goes nowhere, too
            if error.errno not in GONE:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def script(main):
    """Make `main(argv=None)` end with an exit code, and one line on stderr unless it is a bug."""

    def run(argv=None):
        handle_signals(stop)
        out, err = Output(sys.stdout), Output(sys.stderr)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main(argv)
                return sys.stdout.flush()
        except (UserError, Stopped) as error:
            message, code = error, error.code
        except (RunError, OSError) as error:
            message, code = error, 1
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message, code = f"out of memory: {first_line(error)}", 1
        except KeyboardInterrupt:
            message, code = "interrupted", 130
        handle_signals(signal.SIG_IGN if code > 128 else signal.SIG_DFL)
        name, rank = os.path.basename(main.__code__.co_filename), os.environ.get("RANK", "0")
        if rank != "0":  # rank 0 mostly says the same
            time.sleep(5)
            name += f": process {rank}"
        print(f"{name}: error: {' '.join(str(message).split())}", file=err)
        raise SystemExit(code)

    return run


def stop(number, frame):
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped([number])


def handle_signals(handler):
    if threading.current_thread() is threading.main_thread():  # Python allows it there only
        for number in SIGNALS:
            signal.signal(number, handler)


@contextmanager
def stop_flag():
    """A list of the signals received within the block; later ones do not disturb shutdown."""
    received = []
    handle_signals(lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        handle_signals(signal.SIG_IGN if received else stop)
