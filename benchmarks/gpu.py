"""Speed, memory and guarantees on one NVIDIA GPU, as Markdown, in less than nine minutes.

    python benchmarks/gpu.py                    about seven minutes on an H100
    python benchmarks/gpu.py --only prediction

DistilBERT's shape with random weights, and reviews as long as IMDb's, which speed.py makes; no
network. train.py makes 480 steps of 16 reviews and 120 of 64. The plain loop and Trainer make 160
and 40, or as many as fit in 8 seconds. The first ten steps (at most half) are warm-up; train.py
still records CUDA graphs in some later ones, which count. The second half of the steps has a column
of its own. It is one round: repeat it before you trust a small difference. Only the tables go to
standard output.
"""

import argparse
import contextlib
import gc
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"
# One GPU: with several, Trainer would use all of them.
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]

import speed  # beside this file
import torch
from torch.profiler import ProfilerActivity

import train  # speed.py has put the project on the path
from sentiment import run
from sentiment.runtime import device
from sentiment.runtime.log import read_log

BATCHES, STEPS_OF_64, WARM_UP = (16, 64), 40, 10
CASES = [(attention, batch) for attention in ("with", "without") for batch in BATCHES]
REPEATS = 5  # of the reviews, as texts to predict
ROW_SECONDS, ALL_SECONDS = 8, 520
EPOCHS = 3  # of train.py: with time for its graphs
KILLED_AFTER = 20
KILLED = f"""
import os, signal, sys, train

def step(self, entry):
    log(self, entry)
    if entry["step"] == {KILLED_AFTER}:
        os.kill(os.getpid(), signal.SIGKILL)

log, train.TrainingLog.step = train.TrainingLog.step, step
train.main(sys.argv[1:])
"""
TABLES = sys.stdout  # what else is printed goes to standard error


def row(*cells):
    print("|", " | ".join(map(str, cells)), "|", file=TABLES, flush=True)


def header(*names):
    print(file=TABLES)
    row(*names)
    row(*["---"] * len(names))


def measure(training, *given):
    """(real tokens a second, those in the second half, GB). training: returns
    [(real tokens, seconds)], one a step.
    """
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    times = training(*given)
    half = len(times) // 2
    rates = [
        sum(tokens for tokens, _ in late) / sum(seconds for _, seconds in late)
        for late in (times[min(WARM_UP, half) :], times[half:])
    ]
    return *rates, torch.cuda.max_memory_allocated() / 1e9


def training_row(name, attention, batch, peak, rate, late, memory, *more):
    operations = 6 * speed.linear_parameters("distilbert")
    rates = (f"{each:,.0f} ({operations * each / peak:.1%})" for each in (rate, late))
    row(name, attention, batch, *rates, f"{memory:.1f}", *(more or ("", "", "")))


def contestant(name, cudnn, folder, peak):
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    label = f"{name}, with cuDNN attention" if cudnn else name
    for attention, batch in CASES[:1] if cudnn else CASES:  # a new plan takes up to a second
        given = folder / attention, folder / "reviews", batch, ROW_SECONDS
        training_row(label, attention, batch, peak, *measure(speed.TRAINING[name], *given))


def ours(folder, peak):
    own(folder, "with", BATCHES[-1])  # first uses take longer
    for given in CASES:
        # Before and after: the first run of a case is slower, whatever it computes.
        before = measure(own, folder, *given)
        torch.use_deterministic_algorithms(False)
        with mock.patch.object(torch, "use_deterministic_algorithms"):
            _, free, _ = measure(own, folder, *given)
        after = measure(own, folder, *given)
        rate, late, memory = ((a + b) / 2 for a, b in zip(before, after, strict=True))
        count, milliseconds = kernels(folder, *given)
        more = f"{count:,.0f}", f"{milliseconds:.1f}", f"{1 - late / free:.1%}"
        training_row("train.py", *given, peak, rate, late, memory, *more)


def flags(folder, attention, batch, output, reviews, checkpointing_steps):
    argv = ["--model_name_or_path", folder / attention, "--dataset_name", folder / "reviews"]
    argv += ["--max_train_samples", reviews, "--num_train_epochs", 1, "--train_batch_size", batch]
    argv += ["--output_dir", folder / output, "--checkpointing_steps", checkpointing_steps]
    return [str(arg) for arg in argv]


def own(folder, attention, batch, reviews=0):
    argv = flags(folder, attention, batch, "run", reviews, 10**6)
    train.main([*argv, "--overwrite_output_dir", "--num_train_epochs", str(EPOCHS)])
    log = read_log(folder / "run")
    return [(entry["tokens"], entry["seconds"]) for entry in log if "loss" in entry]


def kernels(folder, attention, batch):
    """(kernels, their milliseconds) a step, in the loop of a short run: copies, scoring and kernels
    within a CUDA graph included.
    """
    loop, seen = train.train, torch.profiler.profile(activities=[ProfilerActivity.CUDA])

    def watched(*given):
        with seen:
            return loop(*given)

    with mock.patch.object(train, "train", watched):
        steps = len(own(folder, attention, batch, reviews=20 * batch))
    cuda = torch.autograd.DeviceType.CUDA
    found = [e for e in seen.key_averages() if e.device_type == cuda and not e.is_user_annotation]
    count = sum(event.count for event in found)
    microseconds = sum(event.self_device_time_total for event in found)
    return count / steps, microseconds / steps / 1000


def resume(folder, _):
    """Check that a killed and resumed run is bit-identical to an undisturbed one."""
    found = []
    for name, disturbed in (("whole", False), ("killed", True)):
        argv = flags(folder, "with", 16, name, 640, 15)
        if disturbed:
            killed = start("-c", KILLED, *argv).returncode
            assert killed == -signal.SIGKILL, f"ended with {killed}, not by the kill"
            argv += ["--resume"]
        start("train.py", *argv).check_returncode()
        weights = hashlib.sha256((folder / name / "model.safetensors").read_bytes()).hexdigest()
        losses = [entry["loss"] for entry in read_log(folder / name) if "loss" in entry]
        found.append((weights, losses))
    same = "bit-identical" if found[0] == found[1] else "DIFFERENT"
    row(
        f"killed after step {KILLED_AFTER} of 40 and resumed, compared with an uninterrupted run",
        same,
    )


def start(*argv):
    return subprocess.run([sys.executable, *argv], cwd=speed.ROOT, stdout=sys.stderr)


def predict(folder, _):
    [(texts, seconds)] = speed.predict(folder / "without", folder / "texts")
    row("predict.py", f"{texts / seconds:,.0f}")


def pipeline(folder, _):
    torch.backends.cuda.enable_cudnn_sdp(False)
    precision = device.pick_precision()
    for batch in (32, 128):
        given = folder / "without", folder / "texts", batch, precision
        [(texts, seconds)] = speed.pipeline(*given)
        row(f"pipeline() in {precision}, batches of {batch}", f"{texts / seconds:,.0f}")


PARTS = {  # each runs in a process of its own
    "train.py": ours,
    "plain loop": partial(contestant, "plain loop", False),
    "Trainer": partial(contestant, "Trainer, best flags", False),
    "Trainer with cuDNN attention": partial(contestant, "Trainer, best flags", True),
    "resume": resume,
    "predict.py": predict,
    "pipeline": pipeline,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["training", "prediction", "resume"])
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "gpu.py: error: no NVIDIA GPU; speed.py measures a CPU\n")
    if args.part:
        name, folder, peak = args.part
        with contextlib.redirect_stdout(sys.stderr):
            PARTS[name](Path(folder), float(peak))
        return
    end = time.monotonic() + ALL_SECONDS
    properties, precision = torch.cuda.get_device_properties(0), device.pick_precision()
    peaks = {name: speed.matrix_product_peak(name) for name in dict.fromkeys((precision, "no"))}
    header("device", properties.name)
    row("multiprocessors", properties.multi_processor_count)
    row("memory", f"{properties.total_memory / 1e9:.0f} GB")
    row("versions", ", ".join(f"{name} {version}" for name, version in run.versions().items()))
    for name, peak in peaks.items():
        row(f"peak matmul, {speed.PRECISIONS[name]}", f"{peak / 1e12:,.0f} TFLOP/s")

    with tempfile.TemporaryDirectory() as folder:
        speed.make_files(Path(folder), "distilbert", STEPS_OF_64 * 64 // speed.BATCH)
        texts = Path(folder, "texts")
        texts.mkdir()
        reviews = Path(folder, "reviews", "train.jsonl").read_text(encoding="utf-8")
        Path(texts, "train.jsonl").write_text(reviews * REPEATS, encoding="utf-8")

        def run_parts(*names):
            for name in names:
                argv = [sys.executable, __file__, "--part", name, folder, str(peaks[precision])]
                with subprocess.Popen(argv, start_new_session=True) as process:
                    try:
                        if code := process.wait(max(1, end - time.monotonic())):
                            row(name, f"failed with exit code {code}")
                    except subprocess.TimeoutExpired:
                        row(name, f"not finished after {ALL_SECONDS} s")
                    finally:  # after Ctrl-C, too
                        if process.poll() is None:
                            os.killpg(process.pid, signal.SIGKILL)

        peak = f"of the {speed.PRECISIONS[precision]} peak"
        rates = f"real tokens/s ({peak})", "in the second half"
        names = "training", "attention dropout", "batch size", *rates, "GB"
        more = "kernels/step", "kernel ms/step", "cost of determinism"
        if args.only in (None, "training"):
            header(*names, *more)
            run_parts("train.py", "plain loop", "Trainer", "Trainer with cuDNN attention")
        if args.only in (None, "prediction"):
            header("prediction", "texts/s")
            run_parts("predict.py", "pipeline")
        if args.only in (None, "resume"):
            header("resume", "result")
            run_parts("resume")


if __name__ == "__main__":
    main()
