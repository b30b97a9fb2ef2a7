"""Is anything lost? Kill, stop and damage runs of train.py, fill their disk, resume, compare.

    python benchmarks/trials.py                     all trials, twenty minutes
    python benchmarks/trials.py kills damage --count 10

A disturbed run must end with the weights of an undisturbed one, bit for bit, and with its log.jsonl
except for the seconds. Runs are forked off this process, which has imported the libraries, so Linux
is needed; torchrun starts its own. The disk trial mounts small file systems and needs root.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # processes cannot share a GPU

import torch  # noqa: E402

import train  # noqa: E402  (the project's own folder comes first)
from sentiment import batches, checkpoint, files, inference  # noqa: E402
from sentiment.runtime.log import read_log  # noqa: E402

ARGV = [
    *(
        "--model_name_or_path",
        ROOT / "sample" / "model",
        "--dataset_name",
        ROOT / "sample" / "reviews",
    ),
    *(
        "--max_train_samples",
        96,
        "--max_eval_samples",
        48,
        "--train_batch_size",
        8,
        "--num_train_epochs",
        2,
    ),
    *("--max_tokens_per_device", 200, "--checkpointing_steps", 5, "--learning_rate", 3e-4),
]
# What train.py calls: functions that tell this process when they begin (by a letter) and end (by a
# capital).
MOMENTS = {
    "u": (batches, "dropout_seed"),
    "s": (checkpoint, "write"),
    "e": (inference, "shared_logits"),
}


class Run:
    """A run of train.py in `processes` processes forked off this one, writing into `folder`."""

    def __init__(self, folder, *argv, processes=1):
        self.folder, self.seen = folder, b""
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`end` closes it)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        self.moments, pipe = os.pipe()
        self.processes = {}
        for rank in range(processes):
            if not (process := os.fork()):
                if processes > 1:
                    layout = {
                        "RANK": rank,
                        "LOCAL_RANK": rank,
                        "WORLD_SIZE": processes,
                        "LOCAL_WORLD_SIZE": processes,
                    }
                    os.environ.update(
                        address, **{name: str(value) for name, value in layout.items()}
                    )
                self.be_the_run(rank, pipe, [*ARGV, "--output_dir", folder, *argv])
            self.processes[process] = None
        os.close(pipe)

    def be_the_run(self, rank, pipe, argv):
        os.environ["OMP_NUM_THREADS"] = (
            "1"  # several threads of so small a model wait for each other on a busy machine
        )
        torch.set_num_threads(1)
        # The others sleep before they end: the main process leaves the last collective first.
        time.sleep = lambda seconds, sleep=time.sleep: sleep(seconds / 10)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(self.errors.fileno(), 2)
        for letter, (module, name) in MOMENTS.items() if rank == 0 else ():
            setattr(module, name, telling(getattr(module, name), pipe, letter.encode()))
        code = 0
        try:
            train.main([str(arg) for arg in argv])
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stderr.flush()
        os._exit(code)

    def wait_for(self, letter, times):
        """Wait until a moment has come `times` times; False if the run ended before."""
        while self.seen.count(letter.encode()) < times:
            if not (more := os.read(self.moments, 1)):
                return False
            self.seen += more
        return True

    def send(self, number, processes):
        for process in processes:
            os.kill(process, number)

    def end(self):
        """Wait for all processes; returns the exit code of the main one and the lines on stderr."""
        for process in self.processes:
            self.processes[process] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        while more := os.read(self.moments, 100):
            self.seen += more
        os.close(self.moments)
        with self.errors:
            self.errors.seek(0)
            return next(iter(self.processes.values())), self.errors.read().splitlines()

    def was_in(self, letter):
        """Whether the run ended between the beginning and the end of such a moment."""
        return self.seen.count(letter.encode()) > self.seen.count(letter.upper().encode())


def telling(function, pipe, letter):
    def told(*args, **options):
        os.write(pipe, letter)
        result = function(*args, **options)
        os.write(pipe, letter.upper())
        return result

    return told


def result(folder):
    """What must be equal in a disturbed and an undisturbed run."""
    left = {
        path.name
        for path in folder.iterdir()
        if path.name.startswith(".") or path.name == "checkpoints"
    }
    assert not left, f"{folder}: {left} left behind"
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return (folder / "model.safetensors").read_bytes(), [
        {**entry, "seconds": None} for entry in entries
    ]


def reference(work, *argv, processes=1):
    """The result of an undisturbed run, its seconds, and the time of its second checkpoint."""
    started, run = (
        time.perf_counter(),
        Run(work / f"undisturbed-{processes}", *argv, processes=processes),
    )
    run.wait_for("s", 2)
    save = time.perf_counter()
    run.wait_for("S", 2)
    save = time.perf_counter() - save
    code, errors = run.end()
    assert code == 0, errors
    return result(run.folder), time.perf_counter() - started, save


def finish(folder, wanted, processes=1):
    """Resume the run in `folder` to its end, which must be `wanted`."""
    code, errors = Run(folder, "--resume", processes=processes).end()
    assert code == 0, errors
    assert result(folder) == wanted, f"{folder} differs from the undisturbed run"
    shutil.rmtree(folder)


def kills(work, count, rng):
    """kill -9, two of three aimed at a save, five to a run."""
    wanted, seconds, save = reference(work)
    inside = runs = 0
    for number in range(count):
        run = Run(work / "killed", "--resume")
        if number % 3:
            run.wait_for("s", rng.randint(1, 2))
            time.sleep(rng.uniform(0, 0.4 * save))
        else:
            time.sleep(rng.uniform(0, seconds))
        run.send(signal.SIGKILL, run.processes)
        run.end()
        inside += run.was_in("s")
        if number % 5 == 4 or number == count - 1:
            finish(run.folder, wanted)
            runs += 1
    return f"{count} kills, {inside} inside a save: all {runs} runs matched the undisturbed one"


def restarts(work, count, rng):
    """kill -9 for one of two processes, which torchrun then restarts."""
    longer = "--num_train_epochs", 8
    wanted, *_ = reference(work, *longer, processes=2)
    killed = runs = 0
    while killed < count:
        folder, more = work / "restarted", (*longer, "--resume", "--output_dir", work / "restarted")
        launcher = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            2,
            "--monitor-interval",
            0.2,
        ]
        argv = [
            sys.executable,
            *launcher,
            "--max-restarts",
            count,
            ROOT / "train.py",
            *ARGV,
            *more,
        ]
        with open(work / "restarted.err", "w") as errors:
            job = subprocess.Popen(
                [str(arg) for arg in argv], stdout=subprocess.DEVNULL, stderr=errors
            )
        while job.poll() is None:
            if (
                killed < count
                and (processes := children(job.pid))
                and (folder / "log.jsonl").exists()
            ):
                time.sleep(rng.uniform(0, 3))
                if job.poll() is None and (processes := children(job.pid)):
                    os.kill(rng.choice(processes), signal.SIGKILL)
                    killed += 1
            time.sleep(0.5)
        assert job.returncode == 0, (work / "restarted.err").read_text()
        assert result(folder) == wanted, "a restarted run differs from the undisturbed one"
        shutil.rmtree(folder)
        runs += 1
    return f"{killed} kills of one of two processes: all {runs} runs matched the undisturbed one"


def children(process):
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def signals(work, count, rng):
    """Three signals in a step, a save and an evaluation, to one process, one of two, and both of
    two.
    """
    cases = [
        (name, moment, processes, receivers)
        for processes, receivers in ((1, [0]), (2, [0]), (2, [1]), (2, [0, 1]))
        for moment in MOMENTS
        for name in ("SIGTERM", "SIGINT", "SIGUSR1")
    ]
    slowest, wanted = 0, {}
    for name, moment, processes, receivers in rng.sample(cases, min(count, len(cases))):
        if processes not in wanted:
            wanted[processes], *_ = reference(work, processes=processes)
        run = Run(work / "stopped", processes=processes)
        assert run.wait_for(moment, 2 if moment == "s" else 1)
        sent = time.perf_counter()
        run.send(getattr(signal, name), [list(run.processes)[receiver] for receiver in receivers])
        code, errors = run.end()
        slowest = max(slowest, time.perf_counter() - sent)
        case = f"{name} in {moment} to {receivers} of {processes}: {run.processes}, {errors}"
        asked = (130 if name == "SIGINT" else 143) if 0 in receivers else 143
        assert code == asked, case
        assert set(run.processes.values()) <= {130, 143}, case
        assert len(errors) == processes, case
        assert json.loads((run.folder / "status.json").read_text())["status"] == "preempted", case
        finish(run.folder, wanted[processes], processes)
    return (
        f"{min(count, len(cases))} stops: all preempted within {slowest:.1f} s, all resumed to "
        "the same end"
    )


def disk(work, count, rng):
    """A file system too small for the run, from a tenth of its need on; it is then enlarged."""
    wanted, *_ = reference(work)
    place, failed, whole = work / "small", 0, 0
    place.mkdir()
    for level in range(1, count + 1):
        size = 14_000_000 * level // count  # three checkpoints at once are 14.4 MB
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
        try:
            run = Run(place / "run")
            code, errors = run.end()
            assert code == 1, f"{size} bytes: code {code}, {errors}"
            assert len(errors) == 1, errors
            failed += 1
            saved = checkpoint.paths(run.folder)
            assert all(map(files.is_whole, saved)), saved
            assert len(saved) >= min(run.seen.count(b"S"), 1)
            whole += len(saved)
            subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
            finish(run.folder, wanted)
        finally:
            subprocess.run(["umount", "-l", place], check=True)
    return (
        f"{failed} full disks: one line each, {whole} checkpoints left, all whole; all went on to "
        "the same end"
    )


def damage(work, count, rng):
    """One byte of a checkpoint flipped or removed."""
    run = Run(work / "damaged")
    assert run.wait_for("S", 1)
    run.send(signal.SIGTERM, run.processes)
    run.end()
    path = checkpoint.paths(run.folder)[0]
    assert files.is_whole(path)
    whole = path.read_bytes()
    for number in range(count):
        at = rng.randrange(4096 if number % 3 == 0 else len(whole))  # a third in the header
        flipped = bytes([whole[at] ^ rng.randint(1, 255)]) if number % 2 else b""
        path.write_bytes(whole[:at] + flipped + whole[at + 1 :])
        assert not files.is_whole(path), f"byte {at} of {len(whole)} is not detected"
    return f"{count} bytes flipped or removed from a checkpoint: all detected"


def cost(work, count, rng):
    """The time to save DistilBERT, next to that of its steps of 16 reviews as long as IMDb's."""
    import speed

    speed.make_files(work, "distilbert", count)
    seconds, save = [], checkpoint.save

    def timed(*args):
        started = time.perf_counter()
        save(*args)
        seconds.append(time.perf_counter() - started)

    checkpoint.save = timed
    argv = [
        "--model_name_or_path",
        work / "with",
        "--dataset_name",
        work / "reviews",
        "--max_train_samples",
        0,
    ]
    argv += ["--num_train_epochs", 1, "--checkpointing_steps", 2, "--output_dir", work / "run"]
    train.main([str(arg) for arg in argv])
    steps = [entry["seconds"] for entry in read_log(work / "run") if "loss" in entry]
    save, step = statistics.median(seconds), statistics.median(steps)
    share = save / step / 50
    return (
        f"a save takes {save:.2f} s, a step {step:.2f} s: every 50 steps, saving adds {share:.2%}"
    )


TRIALS = {  # how often each by default
    kills: 50,
    restarts: 20,
    signals: 36,
    disk: 10,
    damage: 100,
    cost: 8,
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [trial.__name__ for trial in TRIALS]
    parser.add_argument(
        "trials", nargs="*", metavar="TRIAL", help=f"{', '.join(names)} (default: all)"
    )
    parser.add_argument("--count", type=int, help="of kills, stops, ... in each trial")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    args = parser.parse_args(argv)
    if unknown := set(args.trials) - set(names):
        parser.error(f"no such trial: {', '.join(unknown)}")
    for trial, count in TRIALS.items():
        if not args.trials or trial.__name__ in args.trials:
            with tempfile.TemporaryDirectory() as work:
                said = trial(Path(work), args.count or count, random.Random(args.seed))
            print(f"{trial.__name__:9} {said}", flush=True)


if __name__ == "__main__":
    main()
