"""On a GPU: `python -m pytest -m gpu`. Everything else in tests/ runs on the CPU."""

import contextlib
import csv
import json
import math
import os
import random
import signal
import sys

import pytest
import tiny
import torch
import transformers
from accelerate.state import AcceleratorState
from test_packing import KINDS, pair, texts

import train as script
from sentiment import inference
from sentiment.fast import attention, graphs, packing
from sentiment.runtime import device

pytestmark = pytest.mark.gpu

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
CUDA = torch.device("cuda")
SIXTEEN_BITS = ("bf16", "fp16")
SETTINGS = {"train_batch_size": 16, "num_train_epochs": 2, "learning_rate": 1e-3}
LONG = 512  # FlashAttention adds gradients in any order for more than 256 tokens


@pytest.fixture(autouse=True)
def afterwards():
    """Undo what a run sets for the whole process."""
    yield
    torch.backends.cuda.enable_cudnn_sdp(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the first run's precision
    torch.use_deterministic_algorithms(False)
    torch.cuda.empty_cache()


def needs(precision):
    if precision not in device.precisions():
        # The refusal has a test of its own, which runs anywhere.
        pytest.skip(f"{device.describe()} has no {precision} hardware; train.py refuses it there")


@pytest.fixture(scope="module")
def long_reviews(tmp_path_factory):
    """A folder of short and long reviews, some longer than LONG tokens."""
    folder = tmp_path_factory.mktemp("long reviews")
    for split, count in (("train", 60), ("test", 20)):
        numbered = enumerate(tiny.reviews(count, seed=count), 1)
        rows = [(" ".join([text] * times), label) for times, (text, label) in numbered]
        tiny.write(folder / f"{split}.csv", rows)
    return folder


@pytest.fixture(scope="module", params=["distilbert", "bert", "roberta"])
def encoder(request, tmp_path_factory):
    positions = LONG + 2 * (request.param == "roberta")
    return tiny.save_model(tmp_path_factory.mktemp(request.param), request.param, positions)


@pytest.fixture(scope="module")
def of_a_cpu(tmp_path_factory, calm, long_reviews):
    """The losses of a run on the CPU, in fp32 and without dropout."""
    folder = tmp_path_factory.mktemp("cpu") / "run"
    given = {"model_name_or_path": calm, "dataset_name": long_reviews, **SETTINGS}
    argv = tiny.flags(**given, output_dir=folder, mixed_precision="no")
    done = tiny.script("train", *argv, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    return losses(folder)


@pytest.fixture(scope="module")
def distilbert_long(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("long"), "distilbert", LONG)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("calm"), "distilbert", LONG, **tiny.NO_DROPOUT)


def outcome(folder):
    """What must be bit-identical when a run is repeated or resumed."""
    steps, evaluations = tiny.read_log(folder)
    steps = [{**step, "seconds": None} for step in steps]
    return (folder / "model.safetensors").read_bytes(), steps, evaluations


def losses(folder):
    return [step["loss"] for step in tiny.read_log(folder)[0]]


# --- The packed encoder


LENGTHS = [512, 257, 130, 128, 127, 64, 9, 2, 1, 1]


def states(dtype):
    """query, key, value [T, heads, D] with gradients, and where the reviews are."""
    torch.manual_seed(3)
    layout = packing.Layout(torch.tensor([0, *LENGTHS]).cumsum(0).int().cuda(), 512)
    made = torch.randn(3, sum(LENGTHS), 4, 64, device="cuda", dtype=dtype)
    return [part.clone().requires_grad_() for part in made], layout


def plainly(query, key, value):
    """The same in float64: softmax(QK'/8)V of each review."""
    queries = LENGTHS if len(query) == len(key) else [1] * len(LENGTHS)
    parts = query.split(queries), key.split(LENGTHS), value.split(LENGTHS)
    attended = []
    for review in zip(*parts, strict=True):
        q, k, v = (part.transpose(0, 1) for part in review)
        attended.append(torch.softmax(q @ k.transpose(1, 2) / 8, -1) @ v)
    return torch.cat([part.transpose(0, 1) for part in attended])


DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("precision", DTYPES)
def test_attention_matches_a_plain_computation(precision, first_only):
    """Guards operators that torch does not promise to keep."""
    needs(precision)
    torch.use_deterministic_algorithms(True)
    given, layout = states(DTYPES[precision])
    query = given[0][layout.starts[:-1].long()] if first_only else given[0]
    found = attention.by_kernel(query, *given[1:], layout, 0.125, 0.0)
    exact = [part.detach().double().requires_grad_() for part in given]
    query = exact[0][layout.starts[:-1].long()] if first_only else exact[0]
    wanted = plainly(query, *exact[1:])
    weights = torch.randn_like(wanted)
    (found * weights.to(found.dtype)).sum().backward()
    (wanted * weights).sum().backward()
    tolerance = {"no": 1e-5, "bf16": 0.04, "fp16": 0.005}[precision]
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < tolerance
    for ours, theirs in zip(given, exact, strict=True):
        assert (ours.grad - theirs.grad).abs().max() < tolerance * theirs.grad.abs().max()


@pytest.mark.parametrize("precision", SIXTEEN_BITS)
def test_attention_dropout_depends_on_the_seed_and_keeps_the_mean(precision):
    """FlashAttention keeps 230 of 256, not 0.9, and scales by 1 / 0.9."""
    needs(precision)
    (query, key, value), layout = states(DTYPES[precision])
    value = torch.ones_like(value)
    found = []
    for seed in (*range(200), 7):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(attention.by_kernel(query, key, value, layout, 0.125, 0.1))
    assert torch.equal(found[7], found[-1])
    assert not torch.equal(found[7], found[8])
    mean = torch.stack(found[:200]).double().mean().item()
    assert mean == pytest.approx(230 / 256 / 0.9, abs=6e-4)


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("precision", SIXTEEN_BITS)
def test_dropout_of_the_backward_pass_is_that_of_the_forward_pass(precision, first_only):
    """Attention is linear in its values. In fp32 this fails (torch 2.11), so packing leaves it."""
    needs(precision)
    given, layout = states(DTYPES[precision])
    query, key, value = given
    if first_only:
        query = query[layout.starts[:-1].long()]

    def attend(value):
        torch.manual_seed(5)
        return attention.by_kernel(query, key, value, layout, 0.125, 0.5)

    weights = torch.randn_like(query)
    [gradient] = torch.autograd.grad((attend(value) * weights).sum(), value)
    through_values = (gradient.double() * value.double()).sum()
    through_output = (attend(value).double() * weights.double()).sum()
    scale = math.sqrt((weights.double() ** 2).sum())
    assert abs(through_values - through_output) < 5e-3 * scale


@pytest.mark.parametrize("precision", SIXTEEN_BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_16_bit_is_as_close_to_fp32_as_padded(tmp_path, kind, precision):
    """Logits, and gradients of all parameters."""
    needs(precision)
    stock, ours = (device.place(model, CUDA) for model in pair(tmp_path, kind))
    assert attention.kernel_supports(ours, precision)
    rng = random.Random(1)
    reviews = texts([rng.randint(2, 60) for _ in range(200)], stock)

    def compute(model, precision):
        model.zero_grad()
        dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        [(ids, inputs, _)] = inference.passes(model, reviews, range(len(reviews)), 10**6)
        assert ("layout" in inputs) == (model is ours)
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            logits = model(**inputs).logits[: len(ids)].float()
        targets = torch.tensor(ids, device="cuda") % 3
        torch.nn.functional.cross_entropy(logits, targets).backward()
        gradients = [parameter.grad.flatten() for parameter in model.parameters()]
        return logits[torch.tensor(ids).argsort()].detach(), torch.cat(gradients)

    found = compute(stock, "no"), compute(stock, precision), compute(ours, precision)
    for exact, padded, packed in zip(*found, strict=True):
        assert 0 < (packed - exact).square().mean() < 2 * (padded - exact).square().mean()


def test_cudnn_attention_is_disabled():
    """Even without determinism, which excludes it as well."""
    device.place(torch.nn.Linear(1, 1), CUDA)
    torch.use_deterministic_algorithms(False)
    query = torch.randn(4, 2, 301, 64, device="cuda", dtype=torch.float16, requires_grad=True)
    mask = torch.rand(4, 1, 1, 301, device="cuda") < 0.9
    cudnn = torch.nn.attention.SDPBackend.CUDNN_ATTENTION.value
    assert torch._fused_sdp_choice(query, query, query, mask, 0.1) != cudnn


# --- Training


@pytest.mark.parametrize(("precision", "tolerance"), [("no", 1e-4), ("bf16", 3e-2), ("fp16", 3e-3)])
def test_losses_match_the_cpu(tmp_path, calm, long_reviews, of_a_cpu, precision, tolerance):
    needs(precision)
    tiny.train(calm, long_reviews, tmp_path / "gpu", mixed_precision=precision, **SETTINGS)
    assert losses(tmp_path / "gpu") == pytest.approx(of_a_cpu, rel=tolerance)
    run = tiny.read(tmp_path / "gpu", "run.json")
    assert run["device"] == torch.cuda.get_device_name()
    assert all(run["versions"][name] for name in ("cuda", "cudnn"))
    assert "driver" in run["versions"]  # None without nvidia-smi


@pytest.mark.parametrize("attention_dropout", [0, 0.1])
@pytest.mark.parametrize("precision", ["no", *SIXTEEN_BITS])
def test_the_same_command_twice_gives_the_same_bits(
    tmp_path, encoder, long_reviews, precision, attention_dropout, capfd
):
    """With dropout, of the hidden states at least."""
    needs(precision)
    settings = {**SETTINGS, "mixed_precision": precision, "attention_dropout": attention_dropout}
    found = [
        outcome(tiny.train(encoder, long_reviews, tmp_path / name, **settings)) for name in "ab"
    ]
    assert found[0] == found[1]
    assert "no deterministic kernel" not in capfd.readouterr().err


def test_an_encoder_that_is_not_packed_repeats_its_bits(tmp_path, distilbert, long_reviews):
    tokenizer = transformers.AutoTokenizer.from_pretrained(distilbert)
    size = {"hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 2, "intermediate_size": 64, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    model = transformers.ElectraModel(transformers.ElectraConfig(**size))
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "electra")
    found = [
        outcome(tiny.train(tmp_path / "electra", long_reviews, tmp_path / name, **SETTINGS))
        for name in "ab"
    ]
    assert found[0] == found[1]


def test_attention_dropout_takes_effect(tmp_path, calm, long_reviews):
    """In fp32, whose rounding changes losses by less than a millionth."""
    first = []
    for dropout in (0, 0.1):
        folder = tmp_path / str(dropout)
        tiny.train(calm, long_reviews, folder, **SETTINGS, attention_dropout=dropout)
        first.append(losses(folder)[0])
    assert abs(first[0] - first[1]) > 1e-4


def test_an_operation_without_a_deterministic_kernel_trains_without_it(
    tmp_path, distilbert_long, long_reviews, monkeypatch, capfd
):
    tiny.add_put(monkeypatch)
    tiny.train(distilbert_long, long_reviews, tmp_path / "run", **SETTINGS)
    error = capfd.readouterr().err
    assert error.count("put_ has no deterministic kernel: runs may differ") == 1


@contextlib.contextmanager
def without_graphs():
    """train.py computes each pass as written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs.Graphs, "__call__", lambda self, *given: self.compute(*given))
        yield


@pytest.mark.parametrize("precision", ["no", *SIXTEEN_BITS])
def test_graphs_change_no_bit(tmp_path, encoder, long_reviews, precision, monkeypatch):
    """With dropout, in fp32 not of attention; several passes a step and a smaller last batch."""
    needs(precision)
    settings = {**SETTINGS, "num_train_epochs": 4, "mixed_precision": precision}
    dropout = 0 if precision == "no" else 0.1
    settings |= {"max_tokens_per_device": 2000, "attention_dropout": dropout}
    with without_graphs():
        plain = outcome(tiny.train(encoder, long_reviews, tmp_path / "plain", **settings))
    replay, replays = torch.cuda.CUDAGraph.replay, []
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda self: (replays.append(self), replay(self))
    )
    assert outcome(tiny.train(encoder, long_reviews, tmp_path / "run", **settings)) == plain
    assert len(replays) > len(set(map(id, replays))) > 1


def test_made_up_reviews_change_no_loss(tmp_path, calm, long_reviews, monkeypatch):
    found = []
    for tokens, reviews in ((512, 32), (2048, 128)):
        monkeypatch.setattr(packing, "GPU_TOKENS", tokens)
        monkeypatch.setattr(packing, "GPU_REVIEWS", reviews)
        folder = tmp_path / str(tokens)
        tiny.train(calm, long_reviews, folder, mixed_precision="no", **SETTINGS)
        found.append(losses(folder))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_memory_that_runs_out_while_a_graph_is_recorded_halves_the_budget(
    tmp_path, calm, long_reviews, monkeypatch, capfd
):
    settings = {**SETTINGS, "num_train_epochs": 4, "mixed_precision": "no"}
    tiny.train(calm, long_reviews, tmp_path / "ample", **settings)
    cross_entropy, failed = torch.nn.functional.cross_entropy, []

    def failing(*given, **options):
        if torch.cuda.is_current_stream_capturing() and not failed:
            failed.append(True)
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return cross_entropy(*given, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", failing)
    capfd.readouterr()
    tiny.train(calm, long_reviews, tmp_path / "scarce", **settings)
    assert capfd.readouterr().err.count("out of memory: continuing") == len(failed) == 1
    assert losses(tmp_path / "scarce") == pytest.approx(losses(tmp_path / "ample"), rel=1e-4)


KILLED = """
import os, signal, sys, train

def step(self, entry):
    log(self, entry)
    if entry["step"] == 6:
        os.kill(os.getpid(), signal.SIGKILL)

log, train.TrainingLog.step = train.TrainingLog.step, step
train.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", *SIXTEEN_BITS])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, distilbert_long, long_reviews, precision):
    needs(precision)
    given = {"model_name_or_path": distilbert_long, "dataset_name": long_reviews, **SETTINGS}
    given |= {"mixed_precision": precision, "checkpointing_steps": 3, "max_tokens_per_device": 2000}
    argv = tiny.flags(**given, output_dir=tmp_path / "killed")
    killed = tiny.process(sys.executable, "-c", KILLED, *argv)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = tiny.script("train", *argv, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resume    after step 3" in resumed.stdout
    assert "not bit-identical" not in resumed.stdout
    script.main(tiny.flags(**given, output_dir=tmp_path / "whole"))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_memory_that_runs_out_halves_the_budget_and_changes_no_result(
    tmp_path, calm, long_reviews, capfd
):
    """With memory between what an unlimited run takes and one with small passes."""
    settings, took = {**SETTINGS, "train_batch_size": 60}, []
    for name, more in (("ample", {}), ("small", {"max_tokens_per_device": 2 * LONG})):
        torch.cuda.reset_peak_memory_stats()
        tiny.train(calm, long_reviews, tmp_path / name, **settings, **more)
        took.append(torch.cuda.max_memory_allocated())
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(sum(took) / 2 / torch.cuda.mem_get_info()[1])
    capfd.readouterr()
    try:
        tiny.train(calm, long_reviews, tmp_path / "scarce", **settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    printed = capfd.readouterr().err.splitlines()
    budgets = [int(line.split()[7]) for line in printed if line.startswith("out of memory")]
    assert budgets, took
    assert min(budgets) >= 2 * LONG, took  # the failed pass was freed before the next
    assert losses(tmp_path / "scarce") == pytest.approx(losses(tmp_path / "ample"), rel=1e-4)


# --- All three scripts, and several processes


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", *SIXTEEN_BITS])
def test_train_evaluate_and_predict_agree_on_the_sample(tmp_path, precision):
    needs(precision)
    sample, folder = tiny.ROOT / "sample", tmp_path / "run"
    given = {"model_name_or_path": sample / "model", "dataset_name": sample / "reviews"}
    given |= {"learning_rate": 3e-4, "output_dir": folder, "mixed_precision": precision}
    done = tiny.script("train", *tiny.flags(**given))
    assert done.returncode == 0, done.stderr
    trained = tiny.read(folder, "metrics.json")
    assert trained["accuracy"] > 0.93
    done = tiny.script("evaluate", "--model_name_or_path", folder, "--predictions")
    assert done.returncode == 0, done.stderr
    assert tiny.read(folder, "metrics.json") == {
        **trained,
        "command": tiny.read(folder, "metrics.json")["command"],
    }
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = "".join(f"{json.dumps({'text': row['text']})}\n" for row in rows)
    done = tiny.script("predict", "--model_name_or_path", folder, "--jsonl", text=lines)
    assert done.returncode == 0, done.stderr
    labels = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    same = sum(row["prediction"] == label for row, label in zip(rows, labels, strict=True))
    # predict.py computes in the best precision and in other passes: an edge case may change sides.
    assert same >= len(rows) - 1


@pytest.mark.slow
# One process per visible GPU is then no mistake, so nothing is refused.
@pytest.mark.skipif(
    bool(os.environ.get("CUDA_VISIBLE_DEVICES")),
    reason="CUDA_VISIBLE_DEVICES is set: train.py then assumes that each process has its own GPU",
)
def test_more_processes_than_gpus_are_refused_in_one_line(tmp_path, calm, long_reviews):
    count = torch.cuda.device_count()
    given = {"model_name_or_path": calm, "dataset_name": long_reviews}
    argv = tiny.flags(**given, output_dir=tmp_path / "run")
    done = tiny.process(*TORCHRUN, count + 1, "train.py", *argv)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if "train.py: error" in line]
    assert f"{count + 1} processes, but only {count} GPUs here" in line


@pytest.mark.slow
def test_two_gpus_give_the_losses_of_one(tmp_path, calm, long_reviews):
    if torch.cuda.device_count() < 2:
        # tests/test_distributed.py compares processes on a CPU.
        pytest.skip("compares one GPU with two; there is only one here")
    tiny.train(calm, long_reviews, tmp_path / "one", **SETTINGS)
    given = {"model_name_or_path": calm, "dataset_name": long_reviews, **SETTINGS}
    argv = tiny.flags(**given, output_dir=tmp_path / "two", mixed_precision="no")
    done = tiny.process(*TORCHRUN, 2, "train.py", *argv)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
