"""What must be done before torch is imported."""

import os
import sys
import tempfile

# OpenMP's idle threads spin for milliseconds by default, and keep a shared core from the one that
# they wait for. This is about 0.1 ms; to sleep at once would halve the speed of small models.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ["GOMP_SPINCOUNT"] = "10000"
try:
    tempfile.gettempdir()  # torch's libraries ask for it
except FileNotFoundError:
    print("error: no folder for temporary files is writable; set TMPDIR to one", file=sys.stderr)
    raise SystemExit(2) from None
