"""Feed random and mutated input to everything that reads untrusted files.

    python benchmarks/fuzz.py --minutes 30

The scripts' main functions run in a process that is restarted when it dies: evaluate.py on data
files and run folders, predict.py on model folders and standard input. Each case must give an answer
per line, or one line on stderr with exit code 1 or 2, within 10 s and 1 GiB. Anything else is
printed with its case number, which --first takes, and the exit code is 1.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
SECONDS, MEBIBYTES = 10, 1024
PIECES = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"\n",
    b"\r\n",
    b",",
    b"{",
    b"[",
    b"]}",
    b"NaN",
    b"[" * 100_000,
    b"1e999",
    b"-1",
]
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    2**31,
    2**63,
    10**30,
    0.5,
    -1e308,
    "",
    "x",
    "../x",
    "a\n",
    "\0",
    "é\ud800",
]
VALUES += ["9" * 5000, [], [1], ["x"], [[]], {}, {"x": 1}, {"0": "x"}, {"type": "x"}]


def mutated_bytes(rng, content):
    """`content` with one to four changes: bytes flipped, removed, inserted, doubled, truncated."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content) + 1)
        length = rng.choice([1, 1, 2, 8, 64, 1000])
        piece = rng.choice(
            [*PIECES, rng.randbytes(length), content[at : at + length] * rng.choice([1, 2, 50])]
        )
        content = rng.choice(
            [content[:at] + piece + content[at + rng.choice([0, length]) :]] * 5 + [content[:at]]
        )
    return content


def mutated_json(rng, value):
    """A JSON value with one change at a random place; places near the top are likelier."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
        changed = value.copy()
        if rng.random() < 0.1:
            del changed[key]
        else:
            changed[key] = mutated_json(rng, value[key])
        return changed
    return rng.choice(VALUES)


def mutate(rng, path):
    """Change a file: its JSON, the header of its weights, or its bytes."""
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.8:
        content = json.dumps(mutated_json(rng, json.loads(content))).encode()
    elif path.suffix == ".safetensors" and rng.random() < 0.8:
        length = struct.unpack("<Q", content[:8])[0]
        header = content[8 : 8 + length]
        if rng.random() < 0.7:
            header = json.dumps(mutated_json(rng, json.loads(header))).encode()
        else:
            header = mutated_bytes(rng, header)
        content = struct.pack("<Q", len(header)) + header + content[8 + length :]
    else:
        content = mutated_bytes(rng, content)
    path.write_bytes(content)


def data_file(rng, good, folder):
    """evaluate.py on a mutated data file."""
    names = ["reviews.csv", "reviews.jsonl", "soft.jsonl", "reviews.parquet", "reviews.csv.gz"]
    name = rng.choice(names)
    path = Path(shutil.copy(good / name, folder))
    if name.endswith(".gz") and rng.random() < 0.7:  # what is in it
        path.write_bytes(gzip.compress(mutated_bytes(rng, gzip.decompress(path.read_bytes()))))
    else:
        mutate(rng, path)
    return "evaluate", ["--model_name_or_path", good / "run", "--dataset_name", path], b""


def run_records(rng, good, folder):
    """evaluate.py on a run folder whose records are mutated."""
    run = Path(shutil.copytree(good / "run", folder / "run"))
    name = rng.choice(["run.json", "run.json", "metrics.json", "log.jsonl"])
    mutate(rng, run / name)
    flags = ["--plots"] if name == "log.jsonl" else rng.choice([[], ["--baseline"]])
    return "evaluate", ["--model_name_or_path", run, *flags], b""


def model_folder(rng, good, folder):
    """predict.py on a mutated model."""
    run = Path(shutil.copytree(good / "run", folder / "run"))
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    for name in rng.sample(names, rng.choice([1, 1, 2])):
        mutate(rng, run / name)
    return (
        "predict",
        ["--model_name_or_path", run],
        "A gripping film.\n\nDull, dull.\nÇa m'a plu 🙂".encode(),
    )


def standard_input(rng, good, folder):
    """predict.py on random lines, some of them JSON, or CSV."""
    flags = rng.choice(
        [
            [],
            ["--output_format", "jsonl"],
            ["--jsonl"],
            ["--jsonl", "--threshold", "0.9"],
            ["--csv"],
        ]
    )
    lines = [
        json.dumps({"text": "good film", "n": [1, {"x": None}]}).encode()
        for _ in range(rng.randint(0, 5))
    ]
    if flags == ["--csv"]:
        lines = [b"text,n", *[b'"good ""film"", 1\n2",1'] * rng.randint(0, 5)]
    content = b"\n".join(mutated_bytes(rng, line) if rng.random() < 0.4 else line for line in lines)
    if rng.random() < 0.3:
        content = rng.randbytes(rng.choice([1, 10, 1000, 70_000]))
    return "predict", ["--model_name_or_path", good / "run", *flags], content


KINDS = [data_file, run_records, model_folder, model_folder, standard_input]


def attempt(number, good, folder):
    """Run case `number`. Returns (kind, exit code, the problem or None)."""
    import evaluate
    import predict

    rng = random.Random(number)
    kind = rng.choice(KINDS)
    script, argv, content = kind(rng, good, folder)
    argv = [
        *map(str, argv),
        *(["--output_dir", str(folder / "out")] if script == "evaluate" else []),
    ]
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    sys.stdin, usual = io.TextIOWrapper(io.BytesIO(content)), sys.stdin
    started = time.monotonic()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            {"evaluate": evaluate, "predict": predict}[script].main(argv)
        code, wrong = 0, None
    except SystemExit as stop:
        code, wrong = stop.code, None if stop.code in (1, 2) else f"exit code {stop.code}"
        lines = err.getvalue().splitlines()
        if len(lines) != 1 or ": error: " not in lines[0]:
            wrong = wrong or f"{len(lines)} lines: {lines}"
    except BaseException:
        code, wrong = None, traceback.format_exc()
    sys.stdin = usual
    marked = content[:1] in (b"\xff", b"\xfe", b"\xef")  # perhaps a byte order mark, or UTF-16
    if code == 0 and script == "predict" and "--csv" not in argv and not marked:
        out.flush()
        answers = out.buffer.getvalue().decode("utf-8", "surrogatepass").count("\n")
        wanted = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
        wrong = None if answers == wanted else f"{answers} answers to {wanted} lines"
    if time.monotonic() - started > SECONDS:
        wrong = wrong or f"{time.monotonic() - started:.0f} s"
    return kind.__name__, code, wrong


def make_good(folder):
    """A run folder, from the sample, and data files to mutate."""
    import datasets

    import train

    rows = [
        {"text": f"{arg} film {i}", "label": label}
        for i in range(6)
        for arg, label in (("good", 1), ("bad", 0))
    ]
    data = datasets.Dataset.from_list(rows)
    data.to_csv(folder / "reviews.csv", index=False)
    data.to_json(folder / "reviews.jsonl")
    data.to_parquet(folder / "reviews.parquet")
    soft = [{**row, "label": {"0": 1 - row["label"], "1": row["label"]}} for row in rows[:8]]
    datasets.Dataset.from_list(soft).to_json(folder / "soft.jsonl")
    (folder / "reviews.csv.gz").write_bytes(gzip.compress((folder / "reviews.csv").read_bytes()))
    argv = [
        "--model_name_or_path",
        ROOT / "sample/model",
        "--dataset_name",
        folder / "reviews.csv",
    ]
    argv += ["--output_dir", folder / "run", "--num_train_epochs", 1, "--mixed_precision", "no"]
    train.main([str(arg) for arg in argv])


def in_child(work):
    """Run `work(write)` in a forked process, yield the lines it writes; a signal that ended it is
    yielded last.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            with os.fdopen(write, "w", buffering=1) as file:
                work(lambda line: file.write(f"{line}\n"))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        yield from (line.rstrip("\n") for line in file)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended:
        yield json.dumps(["the process", None, f"ended by {ended}"])


def fuzz(first, until, good):
    """Run cases from number `first` until `until(number)`. Returns a Counter of their outcomes."""
    counts, number = Counter(), first

    def work(write):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        fresh = number
        while not until(fresh) and fresh < number + 500:  # then a fresh process: caches grow
            with tempfile.TemporaryDirectory() as folder:
                signal.alarm(3 * SECONDS)  # ends a process that hangs
                result = attempt(fresh, good, Path(folder))
                signal.alarm(0)
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MEBIBYTES * 1024:
                write(json.dumps([result[0], result[1], result[2] or "more than 1 GiB of memory"]))
                return
            write(json.dumps(result))
            fresh += 1

    while not until(number):
        for line in in_child(work):
            kind, code, wrong = json.loads(line)
            counts[kind, "finding" if wrong else f"exit code {code}"] += 1
            if wrong:
                print(f"case {number}, {kind}: {wrong}", flush=True)
            number += 1
    return counts


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    args = parser.parse_args()
    # trial.silenced hides it from file descriptor 2 only.
    warnings.filterwarnings("ignore", "Initializing zero-element tensors")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": scratch,
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "0",
        }
        os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = (
            "16"  # it alone grows to 1 GB with the shapes of many cases
        )
        good = Path(scratch)
        list(in_child(lambda write: make_good(good)))  # in a child: threads do not survive a fork
        import evaluate  # noqa: F401  (once, for all children)
        import predict  # noqa: F401

        end = time.monotonic() + 60 * args.minutes
        counts = fuzz(args.first, lambda number: time.monotonic() > end, good)
    for (kind, ended), count in sorted(counts.items()):
        print(f"{kind:<16}{ended:<14}{count:>8,}")
    sys.exit(any(ended == "finding" for _, ended in counts))


if __name__ == "__main__":
    main()
