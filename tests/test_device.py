"""GPU handling that can be tested without a GPU; see also test_gpu.py."""

import math
import os
import sys
import weakref
from types import SimpleNamespace

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import train
from sentiment import distributed, inference, run
from sentiment.errors import RunError, UserError
from sentiment.fast import packing
from sentiment.fast.gradients import Gradients
from sentiment.runtime import device, launch


def test_gpus_are_hidden_unless_asked_for():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


class Anywhere:
    """A model that records its device."""

    def to(self, device):
        self.device = device
        return self


@pytest.fixture
def placed_on_a_gpu(monkeypatch):
    """A model after `place` on a GPU; the global switches are reset afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    yield device.place(Anywhere(), torch.device("cuda"))
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.enable_cudnn_sdp(True)


def test_a_gpu_is_deterministic_and_leaves_cudnns_attention_out(placed_on_a_gpu):
    assert placed_on_a_gpu.device == torch.device("cuda")
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_place_changes_nothing_on_a_cpu():
    assert device.place(Anywhere(), torch.device("cpu")).device == torch.device("cpu")
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_one_thread_works_beside_a_gpu(kind, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "cpu_count", lambda: 3)
    before = torch.get_num_threads()
    try:
        device.set_up(torch.device(kind))
        assert torch.get_num_threads() == (3 if kind == "cpu" else 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("group", "files", "cpus"),
    [
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {}, math.inf),
        ("0::/job/step", {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"}, 2),
        ("0::/job/step", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "50000 100000"}, 1),
        ("4:memory:/\n2:cpu,cpuacct:/job", {"cpu,cpuacct/job/cpu": (300000, 100000)}, 3),
        ("2:cpu:/job", {"cpu/job/cpu": (-1, 100000)}, math.inf),
        ("2:cpu:/docker/1f", {"cpu/cpu": (100000, 50000)}, 2),
        ("0::/\n2:cpu:/a/b", {"cpu/a/b/cpu": (100000, 100000)}, 1),
        (None, {}, math.inf),
    ],
)
def test_threads_keep_to_the_quota_of_the_control_group(tmp_path, group, files, cpus, monkeypatch):
    monkeypatch.setattr(device, "GROUP", tmp_path / "self")
    monkeypatch.setattr(device, "GROUPS", tmp_path)
    if group:
        (tmp_path / "self").write_text(group + "\n")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            (tmp_path / name).write_text(content + "\n")
        else:  # version 1
            for end, number in zip(("cfs_quota_us", "cfs_period_us"), content, strict=True):
                (tmp_path / f"{name}.{end}").write_text(f"{number}\n")
    assert device.quota() == cpus
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "cpu_count", lambda: 64)
    before = torch.get_num_threads()
    try:
        device.set_up(torch.device("cpu"))
        assert torch.get_num_threads() == min(64, cpus)
    finally:
        torch.set_num_threads(before)


def test_versions_name_what_computes_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run.collect_env, "get_nvidia_driver_version", lambda _: "570.86.15")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    found = run.versions()
    assert (found["cuda"], found["cudnn"], found["driver"]) == ("13.0", 91900, "570.86.15")


def test_an_operation_without_a_deterministic_kernel_trains_without_it(
    tmp_path, distilbert, reviews, monkeypatch, capfd
):
    settings = {"num_train_epochs": 1, "train_batch_size": 8}
    tiny.train(distilbert, reviews, tmp_path / "usual", **settings)
    tiny.add_put(monkeypatch)
    monkeypatch.setattr(
        device, "place", lambda *given: torch.use_deterministic_algorithms(True) or given[0]
    )
    capfd.readouterr()
    try:
        tiny.train(distilbert, reviews, tmp_path / "with put", **settings)
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert capfd.readouterr().err == "put_ has no deterministic kernel: runs may differ\n"
    logs = [tiny.read_log(tmp_path / name)[0] for name in ("usual", "with put")]
    losses = [[step["loss"] for step in log] for log in logs]
    assert losses[0] == losses[1]  # the step that failed was retried with the same dropout masks


OUT_OF_MEMORY = [
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "MPS backend out of memory (MPS allocated: 5.13 GB)",
    "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried",
]


@pytest.mark.parametrize("message", OUT_OF_MEMORY)
def test_every_message_of_memory_that_ran_out_halves_the_budget(message, monkeypatch, capfd):
    """After the activations are freed and the allocator's cache is emptied."""
    left = []

    def forward():
        activations = torch.ones(1)
        left.append(weakref.ref(activations))
        raise RuntimeError(message)

    monkeypatch.setattr(inference, "clear_device_cache", lambda: left.append(left[0]()))
    with pytest.raises(RuntimeError) as raised:
        forward()
    assert inference.recover(raised.value, 300, 200) == 150
    assert left[1] is None
    with pytest.raises(RunError, match="with one review of 200 tokens"):
        inference.recover(raised.value, 199, 200)
    [line] = capfd.readouterr().err.splitlines()
    assert line == "out of memory: continuing with at most 150 tokens per pass"


def test_a_budget_that_fits_holds_for_all_later_passes(capfd):
    """evaluate.py and predict.py compute logits chunk by chunk."""

    class Model(torch.nn.Module):
        config = SimpleNamespace(num_labels=2, _attn_implementation="eager")
        device, pad_token_id = torch.device("cpu"), 0

        def forward(self, input_ids, attention_mask):
            if input_ids.numel() > 50:
                raise RuntimeError("CUDA out of memory")
            return SimpleNamespace(logits=torch.zeros(len(input_ids), 2))

    model, ids = Model(), [torch.ones(9, dtype=torch.int64)] * 20
    for _ in range(3):
        assert inference.logits(model, ids, "no", max_tokens=160).shape == (20, 2)
    assert capfd.readouterr().err.splitlines() == [
        f"out of memory: continuing with at most {tokens} tokens per pass" for tokens in (80, 40)
    ]


def test_another_error_is_raised_as_it_is():
    with pytest.raises(RuntimeError, match="shapes"):
        inference.recover(RuntimeError("shapes"), 300, 200)


class Pair:
    """A stub of the Accelerator of one of two processes."""

    num_processes = 2


@pytest.fixture
def failing(monkeypatch):
    """A function that makes all-reduces raise an error."""

    def use(error):
        def all_reduce(tensor):
            raise error

        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)

    return use


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"),
        torch.distributed.DistBackendError("NCCL error: remote process exited"),
    ],
)
def test_a_lost_process_is_named_as_such(error, failing):
    failing(error)
    with pytest.raises(RunError, match="another process exited"):
        distributed.all_reduce(Pair, torch.zeros(1))


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.distributed.DistBackendError("Cuda failure 'unspecified launch failure'"),
        torch.distributed.DistBackendError(
            "NCCL error\nDuplicate GPU detected : rank 0 and rank 1"
        ),
        *map(RuntimeError, OUT_OF_MEMORY),
    ],
)
def test_a_failure_of_this_process_is_not_called_a_lost_process(error, failing):
    failing(error)
    with pytest.raises(RuntimeError) as raised:
        distributed.all_reduce(Pair, torch.zeros(1))
    assert raised.value is error


@pytest.mark.parametrize(
    ("processes", "gpus", "visible", "refused", "line"),
    [
        (2, 1, None, True, ""),
        (8, 4, "0,1,2,3", True, ""),
        (8, 1, "5", False, ""),  # srun has given each process a GPU
        (2, 0, None, False, ""),
        (2, 2, None, False, ""),
        (2, 4, None, False, ""),
        (1, 1, None, False, ""),
        (1, 4, None, False, "1 of 4 GPUs is used; accelerate launch --multi_gpu --num_processes 4"),
    ],
)
def test_processes_and_gpus_must_fit(processes, gpus, visible, refused, line, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if refused:
        wanted = f"{processes} processes, but only {gpus} GPUs here; start one per GPU"
        with pytest.raises(UserError, match=wanted):
            launch.check_gpus()
    else:
        launch.check_gpus()
    printed = capfd.readouterr().err
    assert printed.startswith(line) if line else not printed


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_needs_one():
    done = tiny.process(sys.executable, tiny.ROOT / "benchmarks" / "gpu.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpu.py: error: no NVIDIA GPU; speed.py measures a CPU\n"


def test_a_step_has_no_float64_which_apple_gpus_lack(tmp_path, distilbert, reviews, monkeypatch):
    """Computed as there: padded, in fp32."""
    seen = set()

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            seen.update(part.dtype for part in tree_leaves(result) if torch.is_tensor(part))
            return result

    def recorded(function):
        def call(*given, **options):
            with Recorded():
                return function(*given, **options)

        return call

    monkeypatch.setattr(packing, "install", lambda *given: None)
    parts = (train, "accumulate_gradients"), (Gradients, "reduce"), (torch.optim.AdamW, "step")
    for owner, name in (*parts, (inference, "logits")):
        monkeypatch.setattr(owner, name, recorded(getattr(owner, name)))
    tiny.train(distilbert, reviews, tmp_path / "run", num_train_epochs=1)
    assert torch.float32 in seen
    assert torch.float64 not in seen
