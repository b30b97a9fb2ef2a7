"""Copy a model's folder with all dropout off: python cluster/without_dropout.py FOLDER COPY.

Dropout's random numbers depend on the number of processes. Without dropout, runs can be compared to
the last digits.
"""

import json
import shutil
import sys
from pathlib import Path


def main(folder, copy):
    shutil.copytree(folder, copy)
    path = Path(copy, "config.json")
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({key: 0.0 if "dropout" in key else value for key, value in settings.items()})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
