"""Millions of rows: time to the first step, memory, resuming after a kill. Prints a table.

    python benchmarks/millions.py                                   3,600,000 and 400,000 rows
    python benchmarks/millions.py --rows 360000 --test_rows 40000
    python benchmarks/millions.py --epoch                          also an epoch and evaluate.py

It writes CSV files of made-up reviews, 90 words on average, of words from sample/reviews: 2 GB in a
temporary folder, or in --folder, where a later call finds them. The model is sample/model.
Needs psutil, which Accelerate brings.
"""

import argparse
import csv
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "sample" / "model"
ALONE = """
import sys, time
from transformers import AutoTokenizer
from sentiment import data

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
for split in ("train", "test"):
    texts = data.read_split(sys.argv[2], split)["text"]
    for start in range(0, len(texts), 1000):
        tokenizer(texts[start : start + 1000], truncation=True, max_length=256)["input_ids"]
"""


def generate(path, rows, seed):
    rng = random.Random(seed)
    with open(ROOT / "sample" / "reviews" / "train.csv", encoding="utf-8", newline="") as file:
        words = " ".join(row["text"] for row in csv.DictReader(file)).split()
    phrases = [" ".join(rng.choices(words, k=9)) for _ in range(20_000)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(rows):
            count = max(1, min(40, round(rng.lognormvariate(2.12, 0.6))))  # 10 on average
            text = " ".join(rng.choices(phrases, k=count))
            writer.writerow([text, ("negative", "positive")[i % 2]])


class Job:
    """A command in the project's folder; `memory` is the peak USS of each of its processes."""

    def __init__(self, *argv, cache):
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(cache)}
        self.started, self.peaks = time.perf_counter(), {}
        env |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}  # two cannot share a GPU
        self.process = subprocess.Popen(
            [sys.executable, *map(str, argv)],
            cwd=ROOT,
            env=env,
            stdout=sys.stderr,
        )
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()

    def watch(self):
        job = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            try:
                for each in [job, *job.children(recursive=True)]:
                    used = each.memory_full_info().uss
                    self.peaks[each.pid] = max(used, self.peaks.get(each.pid, 0))
            except psutil.Error:  # one has ended
                continue
            time.sleep(1)

    def seconds(self):
        return time.perf_counter() - self.started

    def memory(self):
        used = (peak for peak in self.peaks.values() if peak > 3e8)  # not the launcher
        return ", ".join(f"{peak / 1e9:.2f}" for peak in used)

    def reach(self, log, step):
        """Wait for a new file `log` with that step, as a resumed run makes one as well."""
        before = log.stat().st_ino if log.exists() else None
        while self.process.poll() is None:
            time.sleep(0.1)
            if log.exists() and log.stat().st_ino != before:
                lines = log.read_text(encoding="utf-8").splitlines()
                if any(f'{{"step": {step},' in line for line in lines):
                    return
        raise SystemExit(f"ended with {self.process.returncode} before step {step}")

    def end(self, kill=False):
        if kill:
            job = psutil.Process(self.process.pid)
            for each in [job, *job.children(recursive=True)]:  # torchrun's are in other sessions
                each.kill()
        if (code := self.process.wait()) and not kill:
            raise SystemExit(f"ended with {code}")
        self.watcher.join()
        return self


def row(*cells):
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def measure(folder, epoch):
    cache, reviews = folder / "cache", folder / "reviews"
    flags = ["--model_name_or_path", MODEL, "--dataset_name", reviews, "--num_train_epochs", 1]
    whole = [*flags, "--max_train_samples", 0, "--max_eval_samples", 0]
    whole += ["--checkpointing_steps", 50]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]

    def to_step(what, step, folder, *argv):
        job = Job(*argv, "--output_dir", folder, cache=cache)
        job.reach(folder / "log.jsonl", step)
        row(what, f"{job.seconds():.0f}", job.end(kill=True).memory())

    for name in ("cache", "other cache", "first", "run", "few", "two", "epoch"):
        shutil.rmtree(folder / name, ignore_errors=True)
    row("what", "seconds", "peak USS of each process, GB")
    row("---", "---", "---")
    alone = Job("-c", ALONE, MODEL, reviews, cache=folder / "other cache").end()
    row("reading and tokenizing alone", f"{alone.seconds():.0f}", alone.memory())
    to_step("train.py, to step 1", 1, folder / "first", "train.py", *whole)
    to_step("again, all cached, to step 70", 70, folder / "run", "train.py", *whole)
    resumed = "train.py", *whole, "--resume"
    to_step("kill -9, then --resume from step 50, to step 51", 51, folder / "run", *resumed)
    few = "train.py", *flags, "--max_train_samples", 1000
    to_step("--max_train_samples 1000, to step 1", 1, folder / "few", *few)
    shutil.rmtree(cache / "tokens")
    to_step("two processes, tokens not cached", 1, folder / "two", *torchrun, "train.py", *whole)
    if epoch:
        argv = "train.py", *whole, "--train_batch_size", 256, "--output_dir", folder / "epoch"
        job = Job(*argv, cache=cache).end()
        row("an epoch in batches of 256, from cached tokens", f"{job.seconds():.0f}", job.memory())
        argv = "evaluate.py", "--model_name_or_path", folder / "epoch", "--predictions"
        job = Job(*argv, cache=cache).end()
        row("evaluate.py --predictions", f"{job.seconds():.0f}", job.memory())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=3_600_000)
    parser.add_argument("--test_rows", type=int, default=400_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--epoch", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        for name, rows, seed in (("train", args.rows, 1), ("test", args.test_rows, 2)):
            path = folder / "reviews" / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                generate(path, rows, seed)
        measure(folder, args.epoch)


if __name__ == "__main__":
    main()
