"""Malicious model folders against each script: one line, exit code 2, and
nothing else happens.
"""

import io
import json
import shutil
import socket
import time
from dataclasses import asdict

import hostile
import pytest
import tiny
import transformers

import evaluate
import predict
import train
from benchmarks import fuzz
from sentiment import files
from sentiment.errors import UserError
from sentiment.hub import access, trial, untrusted
from sentiment.run import Run
from sentiment.runtime.log import read_log

MAIN = {"train": train.main, "evaluate": evaluate.main, "predict": predict.main}


@pytest.fixture
def nothing_asked(monkeypatch):
    """No network, and a standard input that answers yes. Returns that input."""
    monkeypatch.setattr(access.constants, "HF_HUB_OFFLINE", False)

    def connect(*args):
        raise AssertionError(f"a connection: {args}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    answers = io.TextIOWrapper(io.BytesIO(b"y\n" * 100))
    monkeypatch.setattr("sys.stdin", answers)
    return answers


@pytest.mark.parametrize("case", hostile.FOLDERS)
@pytest.mark.parametrize("script", MAIN)
def test_a_malicious_folder_is_a_one_line_error(
    script, case, trained, reviews, tmp_path, nothing_asked, refusal, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder, canary = shutil.copytree(trained, tmp_path / "model"), tmp_path / "canary"
    hostile.FOLDERS[case](folder, canary)
    argv = [
        "--model_name_or_path",
        folder,
        "--dataset_name",
        reviews,
        "--output_dir",
        "out",
        "--mixed_precision",
        "no",
    ]
    started = time.perf_counter()
    error = refusal(MAIN[script], argv[: {"train": 8, "evaluate": 6, "predict": 2}[script]])
    assert time.perf_counter() - started < 5
    assert error.startswith(f"{script}.py: error: {folder}: ")
    assert not canary.exists()
    assert not (tmp_path / "out").exists()
    assert nothing_asked.buffer.tell() == 0


@pytest.mark.slow
def test_a_rust_panic_is_a_one_line_error(trained, tmp_path):
    """Rust prints panics to stderr itself."""
    folder = shutil.copytree(trained, tmp_path / "model")
    hostile.FOLDERS["tokenizer that panics"](folder, None)
    done = tiny.script("predict", "--model_name_or_path", folder, text="good film\n")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_harmless_folders_load(trained, tmp_path):
    """A pickle beside safetensors, a link to the folder, links of the Hub's cache."""
    wanted = trial.load_trained(str(trained))[1].state_dict()
    beside = shutil.copytree(trained, tmp_path / "beside")
    (beside / "pytorch_model.bin").write_bytes(b"never read")
    (tmp_path / "link").symlink_to(trained)
    snapshot, blobs = tmp_path / "cache/snapshots/abc", tmp_path / "cache/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in (path for path in trained.iterdir() if path.is_file()):
        shutil.copy(path, blobs)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    for folder in (beside, tmp_path / "link", snapshot):
        found = trial.load_trained(str(folder))[1].state_dict()
        assert all(found[name].equal(tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("script", ["evaluate", "predict"])
def test_class_names_cannot_break_output_lines(script, trained, tmp_path, refusal):
    folder = shutil.copytree(trained, tmp_path / "model")
    hostile.edit(folder, "config.json", id2label={"0": "a\nb", "1": "c"})
    assert "id2label" in refusal(MAIN[script], ["--model_name_or_path", folder])


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run["settings"].update(seed="x"),
        lambda run: run["settings"].update(dataset_name="a\0b"),
        lambda run: run["settings"].update(train_split_name=["train"]),
        lambda run: run["settings"].update(train_split_name=None),
        lambda run: run["settings"].update(validation_split_name=["validation"]),
        lambda run: run.update(labels=[1]),
        lambda run: run.update(settings=[]),
        lambda run: run["reviews"]["eval"].update(rows=[None]),
        lambda run: run["reviews"]["eval"].pop("sha256"),
        lambda run: run["settings"].update(max_train_samples=-1),
        lambda run: run["reviews"]["train"].update(reviews=None),
        lambda run: run["reviews"].update(train=[]),
        lambda run: run["commits"].update(model=1),
        lambda run: run["commits"].pop("dataset"),
        lambda run: run.pop("git_commit"),
    ],
)
def test_a_strange_run_json_is_refused(change, trained, tmp_path):
    run = tiny.read(trained, "run.json")
    files.write_json(tmp_path / "run.json", run)
    assert asdict(Run.read(tmp_path)) == run
    change(run)
    files.write_json(tmp_path / "run.json", run)
    with pytest.raises(UserError, match=r"run.json is damaged"):
        Run.read(tmp_path)


@pytest.mark.parametrize(
    "config",
    [transformers.GPT2Config(n_layer=10**6), transformers.AlbertConfig(inner_group_num=10**6)],
)
def test_a_model_far_larger_than_its_weights_is_not_built(config):
    started = time.perf_counter()
    with pytest.raises(UserError, match="far more than its 1,000,000 weights"):
        untrusted.check_size(config, 100, 10**6)
    assert time.perf_counter() - started < 5


def test_a_missing_split_is_refused(trained, tmp_path, refusal):
    folder = shutil.copytree(trained, tmp_path / "model")
    run = tiny.read(folder, "run.json")
    run["reviews"]["eval"] |= {"split": "none", "rows": []}
    files.write_json(folder / "run.json", run)
    line = refusal(evaluate.main, ["--model_name_or_path", folder])
    assert "none reviews that run.json names have changed" in line


NO_OBJECTS = ["[" * 100_000, "[1]", "[]", '[["status", "finished"]]', '"ab"', '""', "5", "null", ""]


@pytest.mark.parametrize("content", NO_OBJECTS)
def test_a_run_json_without_an_object_is_refused(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match="not a JSON object"):
        Run.read(tmp_path)


@pytest.mark.parametrize("content", NO_OBJECTS)
def test_a_status_without_an_object_is_refused(content, distilbert, reviews, tmp_path, refusal):
    (tmp_path / "status.json").write_text(content)
    given = {"model_name_or_path": distilbert, "dataset_name": reviews, "output_dir": tmp_path}
    line = refusal(train.main, [*tiny.flags(**given), "--resume"])
    assert "status.json: not a JSON object" in line


@pytest.mark.parametrize(
    "strange",
    [
        "5",
        "[" * 100_000,
        '{"epoch": 1, "loss": 0.3}',
        '{"step": 2, "loss": 0.5}',
        '{"step": 2, "learning_rate": 0.1, "loss": ' + "9" * 400 + "}",
    ],
)
def test_read_log_stops_at_the_first_foreign_line(strange, trained, tmp_path):
    first, second, *_ = (trained / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text("\n".join([first, strange, second]))
    assert read_log(tmp_path) == [json.loads(first)]


@pytest.mark.slow
def test_a_short_run_of_the_fuzzer(tmp_path, monkeypatch):
    """Cases 0 to 59 of benchmarks/fuzz.py, in this process: threads that have computed do not
    survive a fork.
    """
    fuzz.make_good(tmp_path)
    for number in range(60):
        (tmp_path / str(number)).mkdir()
        kind, _, wrong = fuzz.attempt(number, tmp_path, tmp_path / str(number))
        assert wrong is None, f"case {number}, {kind}: {wrong}"
