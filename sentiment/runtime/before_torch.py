"""Importing torch needs a folder for temporary files: exit with one line without one."""

import sys
import tempfile

try:
    tempfile.gettempdir()
except FileNotFoundError:
    print("error: no folder for temporary files is writable; set TMPDIR to one", file=sys.stderr)
    raise SystemExit(2) from None
