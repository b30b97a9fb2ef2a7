"""Checked before torch is imported, whose libraries ask for a folder for temporary files."""

import sys
import tempfile

try:
    tempfile.gettempdir()
except FileNotFoundError:
    print("error: no folder for temporary files is writable; set TMPDIR to one", file=sys.stderr)
    raise SystemExit(2) from None
