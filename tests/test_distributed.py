"""The number of processes does not change the result; launchers; processes that die."""

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import tiny
import torch

from sentiment import batches
from sentiment.errors import RunError, UserError
from sentiment.run import FREE
from sentiment.runtime import device, launch, watch
from sentiment.runtime import folder as run_folder
from sentiment.runtime.exits import script

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
WITHOUT_FP16 = pytest.mark.skipif(
    "fp16" in device.precisions(), reason="computes fp16: there is nothing to refuse"
)
PLAIN = {"num_train_epochs": 2, "train_batch_size": 8, "learning_rate": 1e-3}


@pytest.fixture(scope="session")
def without_dropout(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("calm"), "distilbert", **tiny.NO_DROPOUT)


@pytest.mark.parametrize(
    ("batch_size", "count"), list(itertools.product(range(1, 10), range(1, 5)))
)
def test_gradients_of_the_shares_sum_to_the_full_batch_gradient(batch_size, count):
    """A model that is linear in its parameters, so that the reference is a plain mean; every review
    counts once.
    """
    for size in range(1, 41):
        rng = random.Random(f"{batch_size}/{count}/{size}")
        lengths = [rng.randint(2, 30) for _ in range(size)]
        gradients = torch.randn(
            size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(size)
        )
        seen = []
        for position in range(-(-size // batch_size)):
            batch = batches.global_batch(position, batch_size, size, seed=1, epoch=1)
            total = torch.zeros(3, dtype=torch.float64)
            for process in range(count):
                mine = batches.share(batch, lengths, process, count)
                for micro_batch in batches.micro_batches(mine, lengths, 40, padded=False):
                    total += gradients[micro_batch].sum(dim=0) / len(batch)
                    seen += micro_batch
            assert torch.allclose(total, gradients[batch].mean(dim=0), rtol=1e-12)
        assert sorted(seen) == list(range(size))


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_give_the_losses_and_metrics_of_one(
    tmp_path, without_dropout, reviews, count
):
    """With one thread each. Each epoch ends with a batch of one review, which leaves all processes
    but one without.
    """
    given = {
        "model_name_or_path": without_dropout,
        "dataset_name": reviews,
        "mixed_precision": "no",
        **PLAIN,
    }
    one = tiny.train(without_dropout, reviews, tmp_path / "one", max_tokens_per_device=50, **PLAIN)
    argv = tiny.flags(**given, output_dir=tmp_path / "many")
    done = tiny.process(*TORCHRUN, "--nproc-per-node", count, "train.py", *argv)
    assert done.returncode == 0, done.stderr
    logs = [tiny.read_log(folder) for folder in (one, tmp_path / "many")]
    pairs = list(zip(logs[0][0], logs[1][0], strict=True))
    assert len(pairs) == 12
    for wanted, found in pairs:
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-6)
        assert (found["learning_rate"], found["tokens"]) == (
            wanted["learning_rate"],
            wanted["tokens"],
        )
    ended = tiny.read(one, "metrics.json")
    assert (
        tiny.read(tmp_path / "many", "metrics.json")["confusion_matrix"]
        == ended["confusion_matrix"]
    )
    if count > 2:
        return
    argv = tiny.flags(model_name_or_path=one, output_dir=tmp_path / "scored")
    done = tiny.process(*TORCHRUN, "--nproc-per-node", count, "evaluate.py", *argv)
    assert done.returncode == 0, done.stderr
    assert (
        tiny.read(tmp_path / "scored", "metrics.json")["confusion_matrix"]
        == ended["confusion_matrix"]
    )
    assert done.stdout.count("written to") == 1


CONFIG = """compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_machines: 1
num_processes: 2
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "count"),
    [
        ([*LAUNCH], 1),
        (
            [
                *LAUNCH,
                "--config_file",
                tiny.ROOT / "accelerate_config.yaml",
                "--multi_gpu",
                "--num_processes",
                2,
            ],
            2,
        ),
        ([*LAUNCH, "--config_file", "multi.yaml", "--main_process_port", 0], 2),
    ],
)
# The launchers then count GPUs, and tests/test_gpu.py has that case.
@pytest.mark.skipif(torch.accelerator.is_available(), reason="with GPUs, other numbers start")
def test_a_launcher_starts_as_many_processes_as_it_was_asked_for(
    tmp_path, distilbert, reviews, launcher, count
):
    (tmp_path / "multi.yaml").write_text(CONFIG)
    given = {"model_name_or_path": distilbert, "dataset_name": reviews, "output_dir": "run"}
    argv = tiny.flags(**given, num_train_epochs=1, max_train_samples=8, max_eval_samples=4)
    done = tiny.process(*launcher, tiny.ROOT / "train.py", *argv, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tiny.read(tmp_path / "run", "run.json")
    cores = len(os.sched_getaffinity(0))
    assert (run["processes"], run["threads"]) == (count, max(1, cores // count))
    assert done.stdout.count("next: python evaluate.py") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "more", "words"),
    [
        (["--cpu", "--num_processes", 2], [], ["--multi_gpu", "--num_processes N"]),
        pytest.param(
            [],
            ["--mixed_precision", "fp16"],
            ["--mixed_precision fp16", "supports"],
            marks=WITHOUT_FP16,
        ),
        pytest.param(
            ["--mixed_precision", "fp16"],
            [],
            ["mixed_precision fp16", "supports"],
            marks=WITHOUT_FP16,
        ),
    ],
)
def test_launches_that_cannot_work_are_refused(
    tmp_path, distilbert, reviews, launcher, more, words
):
    given = tiny.flags(
        model_name_or_path=distilbert, dataset_name=reviews, output_dir=tmp_path / "run"
    )
    done = tiny.process(*LAUNCH, *launcher, tiny.ROOT / "train.py", *given, *more, cwd=tmp_path)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("train.py: error")]
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mistake_is_reported_by_one_process(tmp_path, distilbert, reviews):
    argv = tiny.flags(
        model_name_or_path=distilbert,
        dataset_name=reviews,
        output_dir=tmp_path / "run",
        text_column="nope",
    )
    done = tiny.process(*TORCHRUN, "--nproc-per-node", 3, "train.py", *argv)
    assert done.returncode == 1
    assert (
        len([line for line in done.stderr.splitlines() if "error: --text_column nope" in line]) == 1
    )
    assert "RuntimeError" not in done.stderr


def test_a_mistake_that_one_process_alone_meets_is_reported_by_it(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    @script
    def main(argv):
        raise UserError("no such file")

    with pytest.raises(SystemExit):
        main([])
    assert capfd.readouterr().err.endswith("process 3: error: no such file\n")


def opened(folder, overwrite=False):
    """`open_run` for a run in a folder, in one process."""
    settings = {"overwrite_output_dir": overwrite, "resume": False, "output_dir": folder}
    settings |= {"model_name_or_path": "a model", "dataset_name": "reviews"}
    settings |= {"checkpointing_steps": 10}
    run = SimpleNamespace(settings=settings, folder=folder, write=lambda folder: None)
    run.identity = dict
    alone = {"is_main_process": True, "num_processes": 1, "process_index": 0}
    return run_folder.open_run(run, SimpleNamespace(**alone, device="cpu"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_ends_a_run_as_preempted_with_143(tmp_path, capfd, name):
    @script
    def main(argv):
        with opened(tmp_path / "run"):
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(10)

    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 143
    assert f"stopped by {name}" in capfd.readouterr().err
    assert tiny.read(tmp_path / "run", "status.json")["status"] == "preempted"


def test_a_full_disk_does_not_hide_why_a_run_failed(tmp_path, monkeypatch):
    def write_status(*args, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    def failing():
        with opened(tmp_path / "run"):
            monkeypatch.setattr(run_folder, "write_status", write_status)
            raise RunError("diverged")

    with pytest.raises(RunError, match="diverged"):
        failing()


@pytest.mark.slow
def test_a_process_that_is_killed_takes_the_others_with_it(tmp_path, distilbert, reviews):
    """The main process reports the reason."""
    given = {
        "model_name_or_path": distilbert,
        "dataset_name": reviews,
        "output_dir": tmp_path / "run",
    }
    argv = [str(arg) for arg in tiny.flags(**given, num_train_epochs=2000, mixed_precision="no")]
    command = [*TORCHRUN, "--nproc-per-node", "2", "train.py", *argv]
    with subprocess.Popen(
        command, cwd=tiny.ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as job:
        log = tmp_path / "run" / "log.jsonl"
        while not (log.exists() and log.read_text()):
            assert job.poll() is None, job.stderr.read()
            time.sleep(0.1)
        last = max(children(job.pid), key=lambda child: int(child["RANK"]))
        os.kill(last["pid"], signal.SIGKILL)
        error = job.communicate(timeout=60)[1]
    assert job.returncode == 1
    assert "train.py: error: another process exited" in error or "Signal 9 (SIGKILL)" in error
    assert tiny.read(tmp_path / "run", "status.json")["status"] in ("failed", "preempted")


@pytest.mark.slow
@pytest.mark.parametrize("paused", [0, 2])
def test_a_process_that_is_paused_ends_the_job(tmp_path, distilbert, reviews, paused):
    given = {
        "model_name_or_path": distilbert,
        "dataset_name": reviews,
        "output_dir": tmp_path / "run",
        "ddp_timeout": 5,
    }
    argv = [str(arg) for arg in tiny.flags(**given, num_train_epochs=2000, mixed_precision="no")]
    command = [*TORCHRUN, "--nproc-per-node", "3", "train.py", *argv]
    with subprocess.Popen(
        command, cwd=tiny.ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as job:
        log = tmp_path / "run" / "log.jsonl"
        while not (log.exists() and log.read_text()):
            assert job.poll() is None, job.stderr.read()
            time.sleep(0.1)
        [late] = [child["pid"] for child in children(job.pid) if child["RANK"] == str(paused)]
        os.kill(late, signal.SIGSTOP)
        deadline = time.monotonic() + 90
        while tiny.read(tmp_path / "run", "status.json")["status"] == "running":
            assert job.poll() is None, job.stderr.read()
            if time.monotonic() > deadline:
                job.kill()
                pytest.fail("the job waits for the paused process")
            time.sleep(0.1)
        os.kill(late, signal.SIGKILL)  # torchrun would do so after 30 s
        error = job.communicate(timeout=60)[1]
    assert job.returncode == 1
    status, (steps, _) = tiny.read(tmp_path / "run", "status.json"), tiny.read_log(tmp_path / "run")
    assert status["status"] == "failed"
    who = f"process {paused} made no progress for 5 s after step"
    last = steps[-1]["step"]  # the main process may be paused before it writes one more
    assert status["reason"] in [f"{who} {step}; see --ddp_timeout" for step in (last, last + 1)]
    assert error.count("train.py: error: ") == 1
    assert f"train.py: error: {status['reason']}\n" in error


def test_a_card_without_peer_to_peer_is_refused_in_one_line(monkeypatch):
    """As Accelerate refuses GeForce RTX 40 cards under torchrun; its own launcher sets both."""

    def refuse(**options):
        raise NotImplementedError('Please set `NCCL_P2P_DISABLE="1"` and `NCCL_IB_DISABLE="1"')

    monkeypatch.setattr(launch, "Accelerator", refuse)
    with pytest.raises(RunError, match=r"NCCL_P2P_DISABLE.*NCCL_IB_DISABLE"):
        launch.start("no")


class Peer:
    """Rank 1, seen by the watch of rank 0, and the clock: at each poll it writes begun(poll)."""

    def __init__(self, begun):
        self.begun, self.polls, self.seconds = begun, 0, 0.0
        self.values = torch.distributed.HashStore()
        self.values.set_timeout(timedelta(seconds=1))  # a wait for a missing key is an error

    def clone(self):
        return self

    def set(self, key, value):
        self.values.set(key, value)

    def compare_set(self, key, expected, value):
        self.values.compare_set(key, expected, value)

    def multi_get(self, keys):
        return self.values.multi_get(keys)

    def wait(self, seconds):  # as an event that is not set
        self.polls += 1
        self.seconds += seconds
        assert self.polls < 1000
        if begun := self.begun(self.polls):
            self.values.set("1", begun)
        return False


@pytest.fixture
def watched(monkeypatch, tmp_path, capfd):
    """A function of a Peer and this rank's collectives: (the seconds to the end, the reason)."""

    def leave(code):
        raise SystemExit(code)

    def call(peer, collectives, folder=tmp_path):
        monkeypatch.setattr(watch.os, "_exit", leave)
        monkeypatch.setattr(watch.distributed, "begun", {"collectives": collectives, "passes": 0})
        run = SimpleNamespace(settings={"ddp_timeout": 600}, folder=folder)
        with pytest.raises(SystemExit) as end:
            watch.watch(peer, ["0", "1"], 0, run, SimpleNamespace(at=7), peer)
        assert end.value.code == 1
        [line] = capfd.readouterr().err.splitlines()
        reason = line.removeprefix("train.py: error: ")
        assert reason.endswith(" made no progress for 600 s after step 7; see --ddp_timeout")
        if folder == tmp_path:
            assert tiny.read(folder, "status.json")["reason"] == reason
        return peer.seconds, reason.split(" made")[0]

    return call


def test_passes_are_progress_however_long_the_others_wait(watched):
    peer = Peer(lambda poll: f"2 {min(poll, 200)} {poll}")  # 200 polls of 10 s, then it hangs
    seconds, who = watched(peer, 3)
    assert who == "process 1"  # it has begun fewer collectives
    assert 2600 <= seconds <= 2620


def test_a_rank_that_pauses_within_a_collective_is_named(watched):
    seconds, who = watched(Peer(lambda poll: "3 5 4"), 3)
    assert who == "process 1"  # it polls no more
    assert 600 <= seconds <= 620


def test_a_rank_that_pauses_before_its_first_poll_is_named(watched):
    seconds, who = watched(Peer(lambda poll: None), 3)
    assert who == "process 1"
    assert 600 <= seconds <= 620


def test_ranks_that_hang_together_are_all_named(watched):
    _, who = watched(Peer(lambda poll: f"3 5 {poll}"), 3)
    assert who == "all processes"


def test_a_job_ends_even_if_its_folder_is_not_there(watched, tmp_path):
    _, who = watched(Peer(lambda poll: "3 5 4"), 3, tmp_path / "on another machine")
    assert who == "process 1"


def test_a_store_that_is_gone_is_no_exception(tmp_path):
    class Gone(Peer):
        def set(self, key, value):
            raise torch.distributed.DistNetworkError("Connection reset by peer")

    run = SimpleNamespace(settings={"ddp_timeout": 1e12}, folder=tmp_path)  # "never"
    watched = Gone(str)
    watch.watch(watched, ["0", "1"], 0, run, SimpleNamespace(at=7), watched)
    assert watched.seconds < threading.TIMEOUT_MAX
    assert not os.listdir(tmp_path)


def children(pid):
    """{"pid", "RANK"} of the processes that a launcher started, on Linux."""
    found = []
    for process in os.listdir("/proc"):
        try:
            with (
                open(f"/proc/{process}/stat") as stat,
                open(f"/proc/{process}/environ", "rb") as environ,
            ):
                parent = int(stat.read().rsplit(") ", 1)[1].split()[1])
                settings = dict(
                    entry.split("=", 1)
                    for entry in environ.read().decode().split("\0")
                    if "=" in entry
                )
        except (OSError, ValueError):
            continue
        if parent == pid and "RANK" in settings:
            found.append({"pid": int(process), "RANK": settings["RANK"]})
    return found


@pytest.mark.slow
def test_gradients_take_one_all_reduce_per_step(tmp_path, without_dropout, reviews):
    """It includes loss and stop flag. Each evaluation takes one more, each checkpoint two. NCCL's
    barrier would need a GPU with the number of the local rank: there is none if each process sees
    one GPU alone.
    """
    code = """
import json, sys, accelerate, torch, train
calls, reduce = [], torch.distributed.all_reduce

def counting(tensor, *args):
    calls.append(tensor.numel())
    return reduce(tensor, *args)

torch.distributed.all_reduce, torch.distributed.barrier = counting, None
train.main(sys.argv[1:])
if accelerate.PartialState().is_main_process:
    print(json.dumps(calls))
"""
    (tmp_path / "counting.py").write_text(code)
    given = {
        "model_name_or_path": without_dropout,
        "dataset_name": reviews,
        "mixed_precision": "no",
        **PLAIN,
    }
    argv = tiny.flags(**given, output_dir=tmp_path / "run")
    launcher = [*TORCHRUN, "--nproc-per-node", 2, tmp_path / "counting.py"]
    done = tiny.process(*launcher, *argv, env={"PYTHONPATH": str(tiny.ROOT)})
    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout.splitlines()[-1])
    settings = tiny.read(tmp_path / "run", "run.json")["settings"].keys() - FREE
    # An integer of each process. At the start: after loading, a digest for each setting, and where
    # to begin. For each checkpoint: the token budgets, and after it.
    assert calls.count(2) == 1 + len(settings | {"checkpointing_steps"}) + 1 + 2 * 2
    assert calls.count((20 + 1) * 2) == 2  # logits of the 20 test reviews, and the stop flag
    assert len(calls) == calls.count(2) + 12 + 2


def test_processes_that_differ_leave_an_earlier_run_as_it_is(tmp_path, monkeypatch):
    mine = tmp_path / "run" / "model.safetensors"
    mine.parent.mkdir()
    mine.write_text("mine")
    monkeypatch.setattr(run_folder.distributed, "gather", lambda _, number: [number, number + 1])
    with pytest.raises(UserError, match="processes differ"), opened(tmp_path / "run", True):
        pass
    assert os.listdir(tmp_path / "run") == [mine.name]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({}, None),
        ({"checkpointing_steps": 5}, "--checkpointing_steps"),
        ({"seed": 2, "model_name_or_path": "another head"}, "--seed"),
        ({"dataset_name": "b"}, "--dataset_name"),
    ],
)
def test_a_flag_in_which_processes_differ_is_named(monkeypatch, changed, named):
    def check(checkpointing_steps=10, **changed):
        identity = {"model_name_or_path": "a head", "dataset_name": "a", "seed": 1} | changed
        settings = {"checkpointing_steps": checkpointing_steps}
        run_folder.check_agreement(SimpleNamespace(settings=settings, identity=lambda: identity), 0)

    sent = []
    monkeypatch.setattr(
        run_folder.distributed, "gather", lambda _, number: sent.append(number) or [0]
    )
    check(**changed)
    others = iter(sent[:])
    monkeypatch.setattr(run_folder.distributed, "gather", lambda _, number: [number, next(others)])
    if named:
        with pytest.raises(UserError, match=f"^{named}: the processes differ"):
            check()
    else:
        check()


@pytest.mark.skipif(os.name == "nt", reason="the script needs bash")
@pytest.mark.parametrize(
    ("written", "code", "queued"),
    [("preempted", 143, True), ("failed", 1, False), (None, 2, False)],
)
def test_a_preempted_slurm_job_is_queued_again(tmp_path, written, code, queued):
    """Not one that fails before it writes status.json, which still holds an earlier preemption."""
    status, commands = tmp_path / "run" / "status.json", tmp_path / "bin"
    words = '{{"status": "{}"}}'.format
    content = {
        "activate": f"PATH={commands}:$PATH",
        "srun": 'shift 2\nexec "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/told',
        "python": (f"echo '{words(written)}' > {status}\n" if written else "") + f"exit {code}",
    }
    commands.mkdir()
    for name, lines in content.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{lines}\n")
        (commands / name).chmod(0o755)
    status.parent.mkdir()
    status.write_text(words("preempted"))
    slurm = {"JOB_ID": "7", "JOB_NODELIST": "a", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    env = {**os.environ, **{f"SLURM_{name}": value for name, value in slurm.items()}}
    argv = ["bash", tiny.ROOT / "cluster" / "train.sbatch", "--output_dir", status.parent]
    done = subprocess.run(argv, env=env | {"VENV": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert ("requeue 7" in (tmp_path / "told").read_text()) is queued
