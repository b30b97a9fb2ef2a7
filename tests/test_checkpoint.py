"""A resumed run equals an uninterrupted one. benchmarks/trials.py has longer trials."""

import errno
import hashlib
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors import SafetensorError
from safetensors.torch import load

import predict
import train as script
from sentiment import batches, checkpoint, errors, files, inference
from sentiment.fast import readback
from sentiment.fast.gradients import Gradients
from sentiment.report import card
from sentiment.run import Run
from sentiment.runtime import folder as run_folder
from sentiment.runtime import launch
from sentiment.runtime.log import read_log

SETTINGS = {
    "train_batch_size": 8,
    "num_train_epochs": 3,
    "max_tokens_per_device": 40,
    "learning_rate": 1e-3,
}
SETTINGS |= {"checkpointing_steps": 4}  # an epoch has 6 steps


def result(folder):
    """All that must be equal in a resumed and an uninterrupted run."""
    assert not [
        path.name
        for path in folder.iterdir()
        if path.name.startswith(".") or path.name == "checkpoints"
    ]
    assert tiny.read(folder, "status.json")["status"] == "finished"
    steps, evaluations = tiny.read_log(folder)
    order = [entry["step"] for entry in read_log(folder)]
    return (
        (folder / "model.safetensors").read_bytes(),
        [{**step, "seconds": None} for step in steps],
        evaluations,
        order,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, distilbert, reviews):
    return result(
        tiny.train(distilbert, reviews, tmp_path_factory.mktemp("whole") / "run", **SETTINGS)
    )


def crashed(monkeypatch, distilbert, reviews, folder, *moment, **settings):
    """The folder of a run that crashed; moment: see tiny.crash_at."""
    with monkeypatch.context() as patch:
        tiny.crash_at(patch, *moment)
        with pytest.raises(tiny.Crash):
            tiny.train(distilbert, reviews, folder, **{**SETTINGS, **settings})
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory, distilbert, reviews):
    """A run that crashed in step 10, with checkpoints after 4 and 8. Read it only."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("broken") / "run"
        return crashed(patch, distilbert, reviews, folder, batches, "dropout_seed", 10)


def steps(folder):
    return [path.name[:13] for path in checkpoint.paths(folder)]


@pytest.mark.parametrize(
    ("module", "name", "times", "more"),
    [
        (batches, "dropout_seed", 3, {}),  # before the first checkpoint
        (batches, "dropout_seed", 10, {}),  # in the middle of an epoch
        (inference, "shared_logits", 2, {}),
        (
            inference,
            "shared_logits",
            2,
            {"checkpointing_steps": 6},
        ),  # after an epoch's checkpoint, before its evaluation
        (batches, "dropout_seed", 13, {"checkpointing_steps": 6}),  # after its evaluation
        (checkpoint, "write", 3, {}),
        (script.model, "save", 1, {"checkpointing_steps": 9}),
        (card, "write_results", 1, {}),
    ],
)
def test_a_crashed_run_resumes_to_the_same_result(
    tmp_path, distilbert, reviews, undisturbed, monkeypatch, module, name, times, more
):
    """With dropout, micro-batches, and an evaluation that may have been logged or not."""
    folder = crashed(
        monkeypatch, distilbert, reviews, tmp_path / "run", module, name, times, **more
    )
    (folder / ".tmp-run.json").write_text("{")
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"step": 9, "lo')
    (folder / "checkpoints" / ".tmp-step-00000099").mkdir(parents=True)
    assert result(tiny.train(distilbert, reviews, folder, resume=True, **SETTINGS)) == undisturbed


def test_two_checkpoints_are_kept_and_none_when_the_run_has_finished(
    tmp_path, distilbert, reviews, monkeypatch
):
    folder = tmp_path / "run"
    crashed(
        monkeypatch,
        distilbert,
        reviews,
        folder,
        card,
        "write_results",
        1,
        checkpointing_steps=5,
    )
    assert steps(folder) == ["step-00000015", "step-00000010"]
    for path in (folder / "checkpoints").iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.name[13:] == f"-{digest}.safetensors"
    tiny.train(distilbert, reviews, folder, resume=True, **SETTINGS)
    assert not (folder / "checkpoints").exists()


def test_fp16_resumes_and_a_skipped_step_is_no_failure(tmp_path, distilbert, reviews, monkeypatch):
    """On a CPU fp16 has no scaler, and its gradients do not leave their range: both are brought
    about here.
    """
    start, dropout_seed, now = launch.start, batches.dropout_seed, []
    reduce = Gradients.reduce

    def scaled(*args, **options):
        accelerator = start(*args, **options)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        return accelerator

    def overflowing(gradients, *args):
        if now[-1] in (2, 6, 10):
            gradients.parameters[0].grad[0, 0] = math.inf
        return reduce(gradients, *args)

    monkeypatch.setattr(launch, "start", scaled)
    monkeypatch.setattr(
        batches, "dropout_seed", lambda *args: (now.append(args[1]), dropout_seed(*args))[1]
    )
    monkeypatch.setattr(Gradients, "reduce", overflowing)
    whole = tiny.train(distilbert, reviews, tmp_path / "whole", **SETTINGS)
    folder = crashed(
        monkeypatch, distilbert, reviews, tmp_path / "run", batches, "dropout_seed", 10
    )
    scaler = checkpoint.header(checkpoint.paths(folder)[0])["scaler"]
    # halved after 2, doubled after three more, halved after 6, and two steps since
    assert (scaler["scale"], scaler["_growth_tracker"]) == (512.0, 2)
    assert result(tiny.train(distilbert, reviews, folder, resume=True, **SETTINGS)) == result(whole)


@pytest.mark.slow
def test_resuming_with_another_number_of_processes_keeps_the_batches(
    tmp_path, reviews, monkeypatch
):
    model = tiny.save_model(tmp_path / "model", "distilbert", **tiny.NO_DROPOUT)
    whole = tiny.train(model, reviews, tmp_path / "whole", **SETTINGS)
    folder = crashed(monkeypatch, model, reviews, tmp_path / "run", batches, "dropout_seed", 10)
    given = {
        "model_name_or_path": model,
        "dataset_name": reviews,
        "output_dir": folder,
        "mixed_precision": "no",
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    done = tiny.process(*launch, "train.py", "--resume", *tiny.flags(**given, **SETTINGS))
    assert done.returncode == 0, done.stderr
    pairs = list(zip(tiny.read_log(whole)[0], tiny.read_log(folder)[0], strict=True))
    for wanted, found in pairs:
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-6, abs=3e-7)
        assert found["tokens"] == wanted["tokens"]


def test_a_damaged_checkpoint_gives_way_to_an_older_one(
    tmp_path, distilbert, reviews, broken, undisturbed, capfd
):
    folder = shutil.copytree(broken, tmp_path / "run")
    path = checkpoint.paths(folder)[0]
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"!")
    tiny.train(distilbert, reviews, folder, resume=True, **SETTINGS)
    assert result(folder) == undisturbed
    out = capfd.readouterr().out
    assert f"{path} is damaged" in out
    assert "resume    after step 4" in out


def test_when_all_are_damaged_the_run_stops_and_names_the_file(
    tmp_path, distilbert, reviews, broken, refusal
):
    folder = shutil.copytree(broken, tmp_path / "run")
    for path in checkpoint.paths(folder):
        path.write_bytes(path.read_bytes()[:-1])
    given = {
        "model_name_or_path": distilbert,
        "dataset_name": reviews,
        "output_dir": folder,
        "mixed_precision": "no",
    }
    line = refusal(script.main, tiny.flags(**given, resume=True, **SETTINGS), code=1)
    assert str(checkpoint.paths(folder)[-1]) in line
    assert steps(folder) == ["step-00000008", "step-00000004"]


def test_every_byte_of_a_checkpoint_counts(tmp_path, broken):
    """In the header, the tensors and the digest in the name: flipped or removed."""
    path = Path(shutil.copy(checkpoint.paths(broken)[0], tmp_path))
    content = path.read_bytes()
    assert files.is_whole(path)
    for at in [*range(100), *range(100, len(content), len(content) // 200), len(content) - 1]:
        for changed in (bytes([content[at] ^ 1]), b""):
            path.write_bytes(content[:at] + changed + content[at + 1 :])
            assert not files.is_whole(path), at
    path.write_bytes(content)
    for at in range(14, 14 + 64):
        letter = "0" if path.name[at] != "0" else "1"
        other = path.with_name(path.name[:at] + letter + path.name[at + 1 :])
        assert not files.is_whole(path.rename(other))
        other.rename(path)


def test_a_folder_is_no_checkpoint(tmp_path, distilbert, reviews, refusal):
    old = tmp_path / "run" / "checkpoints" / "step-00000004"
    old.mkdir(parents=True)
    (old / "manifest.json").write_text("{}")
    given = {"model_name_or_path": distilbert, "dataset_name": reviews, "mixed_precision": "no"}
    given |= {"output_dir": tmp_path / "run", "resume": True}
    line = refusal(script.main, tiny.flags(**given), code=1)
    assert f"{old} and all newer ones are damaged; use --overwrite_output_dir" in line
    assert (old / "manifest.json").exists()


class Alone:
    """A stub of the Accelerator for one process."""

    num_processes, process_index, is_main_process, device, scaler = (
        1,
        0,
        True,
        torch.device("cpu"),
        None,
    )

    def wait_for_everyone(self):
        pass


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("File too large")]
)
def test_a_failed_file_operation_leaves_an_intact_checkpoint(tmp_path, monkeypatch, error):
    classifier = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(classifier.parameters())
    names = "dataset_name", "model_name_or_path", "max_tokens_per_device"
    settings = {"seed": 1, "output_dir": str(tmp_path), **dict.fromkeys(names, "")}
    settings["load_best_model_at_end"] = False
    hardware = {"device": "", "processes": 1, "threads": 1, "precision": "no"}
    run = Run(settings, [], {}, {}, "", **hardware, git_commit=None)
    (tmp_path / "log.jsonl").touch()

    def save(step):
        classifier(torch.ones(3)).sum().backward()
        optimizer.step()
        checkpoint.save(run, step, 10, Alone(), classifier, optimizer)

    save(1)
    save(2)
    operations = [(os, name) for name in ("open", "fsync", "close", "replace", "mkdir", "unlink")]
    operations += [(checkpoint, "save_file"), (files, "digest")]
    failures = 0
    for step in itertools.count(3):
        calls = itertools.count()

        def failing(function, calls=calls, at=step - 3):
            def call(*args, **options):
                if next(calls) == at:
                    raise error
                return function(*args, **options)

            return call

        with monkeypatch.context() as patch:
            for module, name in operations:
                patch.setattr(module, name, failing(getattr(module, name)))
            try:
                save(step)
            except (OSError, errors.RunError, SafetensorError):
                failures += 1
        assert checkpoint.newest(tmp_path, run) >= step - 1 - failures
        assert all(map(files.is_whole, checkpoint.paths(tmp_path)))
        assert len(checkpoint.paths(tmp_path)) >= 2
        if next(calls) <= step - 3:
            break
    assert failures >= 12


CHANGES = {
    "learning_rate": 2e-3,
    "train_batch_size": 4,
    "seed": 1,
    "num_train_epochs": 4,
    "max_train_samples": 30,
}


@pytest.mark.parametrize(("name", "value"), CHANGES.items())
def test_resume_refuses_changed_settings_by_name(distilbert, reviews, broken, refusal, name, value):
    given = {
        "model_name_or_path": distilbert,
        "dataset_name": reviews,
        "output_dir": broken,
        "mixed_precision": "no",
    }
    before = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    line = refusal(script.main, tiny.flags(**given, **{**SETTINGS, name: value}, resume=True))
    assert f"--resume: settings differ from the run's: {name} {value} (was" in line
    assert not [
        other for other in (CHANGES | {"dataset_name": 0}) if other != name and f"{other} " in line
    ]
    assert {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()} == before


def test_resume_refuses_other_data_or_another_model_by_name(
    tmp_path, distilbert, reviews, broken, refusal
):
    shutil.copytree(reviews, tmp_path / "reviews")
    tiny.write(tmp_path / "reviews" / "train.csv", tiny.reviews(41, seed=3))
    other = tiny.save_model(tmp_path / "model", "distilbert", dropout=0.2)
    for model, dataset, name in (
        (distilbert, tmp_path / "reviews", "dataset_name"),
        (other, reviews, "model_name_or_path"),
    ):
        given = {
            "model_name_or_path": model,
            "dataset_name": dataset,
            "output_dir": broken,
            "mixed_precision": "no",
        }
        line = refusal(script.main, tiny.flags(**given, **SETTINGS, resume=True))
        assert f"from the run's: {name} {tmp_path}" in line


def test_resume_accepts_free_settings_and_moved_data(
    tmp_path, distilbert, reviews, broken, undisturbed
):
    folder = shutil.copytree(broken, tmp_path / "elsewhere")
    moved = (
        shutil.copytree(reviews, tmp_path / "reviews"),
        shutil.copytree(distilbert, tmp_path / "model"),
    )
    changed = {"max_tokens_per_device": 60, "checkpointing_steps": 1}
    tiny.train(moved[1], moved[0], folder, resume=True, **{**SETTINGS, **changed})
    assert [step["tokens"] for step in tiny.read_log(folder)[0]] == [
        step["tokens"] for step in undisturbed[1]
    ]
    assert tiny.read(folder, "run.json")["settings"]["max_tokens_per_device"] == 60


def test_the_token_budget_in_force_is_kept(tmp_path, distilbert, reviews, broken, monkeypatch):
    """After memory ran out before the crash, the resumed run does not retry the larger budget."""
    folder = shutil.copytree(broken, tmp_path / "run")
    path = checkpoint.paths(folder)[0]
    state, tensors = checkpoint.header(path), load(path.read_bytes())
    path.unlink()
    checkpoint.write(path.with_name(path.name[:13]), tensors, {**state, "max_tokens": [20]})
    budgets, passes = set(), inference.passes
    monkeypatch.setattr(inference, "passes", lambda *args: (budgets.add(args[3]), passes(*args))[1])
    tiny.train(distilbert, reviews, folder, resume=True, **SETTINGS)
    assert budgets == {20}


def test_another_machine_or_other_libraries_are_noted(
    tmp_path, distilbert, reviews, broken, undisturbed, capfd
):
    folder = shutil.copytree(broken, tmp_path / "run")
    assert result(tiny.train(distilbert, reviews, folder, resume=True, **SETTINGS)) == undisturbed
    assert "not bit-identical" not in capfd.readouterr().out
    folder = shutil.copytree(broken, tmp_path / "elsewhere")
    path = checkpoint.paths(folder)[0]
    state, tensors = checkpoint.header(path), load(path.read_bytes())
    path.unlink()
    now = state["machine"]
    before = {**now, "device": "NVIDIA T4", "torch": "2.9.0"}
    checkpoint.write(path.with_name(path.name[:13]), tensors, {**state, "machine": before})
    tiny.train(distilbert, reviews, folder, resume=True, **SETTINGS)
    [note] = [line for line in capfd.readouterr().out.splitlines() if line.startswith("note")]
    wanted = f"device {now['device']} (was NVIDIA T4), torch {now['torch']} (was 2.9.0)"
    assert note == f"note      not bit-identical from here: {wanted}"


def test_a_finished_run_says_so_and_changes_nothing(
    tmp_path, trained, distilbert, reviews, refusal, capfd
):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "checkpoints" / "step-00000004").mkdir(parents=True)  # a kill came between
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    given = {"learning_rate": 3e-3, "num_train_epochs": 4, "train_batch_size": 8, "resume": True}
    tiny.train(distilbert, reviews, folder, **given)
    assert f"the run in {folder} is already finished" in capfd.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    given = tiny.flags(
        model_name_or_path=distilbert, dataset_name=reviews, output_dir=folder, **given, seed=3
    )
    assert "from the run's: seed 3 (was 42)" in refusal(
        script.main, [*given, "--mixed_precision=no"]
    )
    (folder / "run.json").write_text("{}")
    assert "run.json is damaged" in refusal(script.main, [*given, "--mixed_precision=no"])


def test_resume_starts_a_run_only_in_a_new_folder(tmp_path, distilbert, reviews, refusal):
    tiny.train(distilbert, reviews, tmp_path / "new", resume=True, num_train_epochs=1)
    assert tiny.read(tmp_path / "new", "status.json")["status"] == "finished"
    other = shutil.copytree(distilbert, tmp_path / "model")
    given = tiny.flags(
        model_name_or_path=distilbert, dataset_name=reviews, output_dir=other, resume=True
    )
    assert "holds model.safetensors" in refusal(script.main, given)


def test_the_folder_of_a_killed_run_says_how_to_finish_it(broken, refusal):
    assert "--resume finishes this run" in refusal(
        predict.main, ["--model_name_or_path", broken, "dull"]
    )


@pytest.mark.parametrize("name", ["checkpoints/epoch=3.ckpt", "README.md"])
def test_resume_keeps_a_folder_without_a_run(tmp_path, distilbert, reviews, refusal, name):
    other = tmp_path / "other" / name
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    given = {"model_name_or_path": distilbert, "dataset_name": reviews, "resume": True}
    refused = refusal(script.main, tiny.flags(**given, output_dir=tmp_path / "other"))
    assert refused.endswith("choose another folder, or add --overwrite_output_dir"), refused
    assert other.read_text() == "mine"


def test_a_folder_with_checkpoints_is_refused_or_cleared(
    tmp_path, distilbert, reviews, broken, refusal
):
    folder = shutil.copytree(broken, tmp_path / "run")
    for path in folder.iterdir():
        if path.name != "checkpoints":
            path.unlink()
    given = {
        "model_name_or_path": distilbert,
        "dataset_name": reviews,
        "output_dir": folder,
        "mixed_precision": "no",
    }
    given = tiny.flags(**given, num_train_epochs=1)
    assert "holds checkpoints" in refusal(script.main, given)
    assert "not allowed with" in refusal(
        script.main, [*given, "--resume", "--overwrite_output_dir"]
    )
    script.main([*given, "--overwrite_output_dir"])
    assert not (folder / "checkpoints").exists()


def test_a_second_run_in_the_folder_is_refused(tmp_path, distilbert, reviews, broken, refusal):
    folder = shutil.copytree(broken, tmp_path / "run")
    given = tiny.flags(
        model_name_or_path=distilbert, dataset_name=reviews, output_dir=folder, mixed_precision="no"
    )
    with run_folder.locked(folder):
        for way in ("--resume", "--overwrite_output_dir"):
            assert "another run is writing there" in refusal(
                script.main, [*given, *tiny.flags(**SETTINGS), way]
            )
    assert steps(folder) == steps(broken)


@pytest.fixture
def one_step_late(monkeypatch):
    """As on a GPU, which computes a step before the figures of the last one are read."""
    monkeypatch.setitem(readback.BEHIND, "cpu", 1)


@pytest.mark.usefixtures("one_step_late")
def test_steps_read_late_give_the_same_log_and_checkpoints(
    tmp_path, distilbert, reviews, monkeypatch
):
    late = tiny.train(distilbert, reviews, tmp_path / "late", **SETTINGS)
    monkeypatch.setitem(readback.BEHIND, "cpu", 0)
    assert result(late) == result(tiny.train(distilbert, reviews, tmp_path / "run", **SETTINGS))


@pytest.mark.usefixtures("one_step_late")
def test_a_signal_read_late_stops_after_the_next_step_and_loses_none(
    tmp_path, distilbert, reviews, monkeypatch
):
    whole = tiny.train(distilbert, reviews, tmp_path / "whole", **SETTINGS)
    folder, seed = tmp_path / "run", batches.dropout_seed

    def signalled(*args):
        if args[1] == 5:
            signal.raise_signal(signal.SIGTERM)
        return seed(*args)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "dropout_seed", signalled)
        with pytest.raises(SystemExit):
            tiny.train(distilbert, reviews, folder, **SETTINGS)
    assert tiny.read(folder, "status.json")["status"] == "preempted"
    assert [entry["step"] for entry in read_log(folder)] == [1, 2, 3, 4, 5, 6]
    assert steps(folder)[0] == "step-00000006"
    assert result(tiny.train(distilbert, reviews, folder, resume=True, **SETTINGS)) == result(whole)


@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_non_finite_loss_stops_the_run_and_names_the_rows(
    tmp_path, distilbert, reviews, monkeypatch, refusal, what, behind
):
    """AdamW leaves the weights as they are."""
    monkeypatch.setitem(readback.BEHIND, "cpu", behind)
    accumulate, calls, weights = script.accumulate_gradients, itertools.count(1), []

    def broken(gradients, classifier, *args):
        weights.append(torch.cat([each.detach().flatten() for each in classifier.parameters()]))
        max_tokens = accumulate(gradients, classifier, *args)
        if next(calls) == 5:
            if what == "loss":
                gradients.sums[0] = math.nan
            else:
                next(classifier.parameters()).grad[0, 0] = math.inf
        return max_tokens

    monkeypatch.setattr(script, "accumulate_gradients", broken)
    folder = tmp_path / "run"
    given = {
        "model_name_or_path": distilbert,
        "dataset_name": reviews,
        "output_dir": folder,
        "mixed_precision": "no",
    }
    more = {**SETTINGS, "train_batch_size": 5, "max_train_samples": 30}
    line = refusal(script.main, tiny.flags(**given, **more), code=1)
    rows = tiny.read(folder, "run.json")["reviews"]["train"]["rows"]
    batch = batches.global_batch(4, 5, 30, 42, 1)
    assert rows != list(range(30))
    assert "step 5: loss " in line
    assert ("loss nan," if what == "loss" else "gradient norm inf,") in line
    assert f"on rows {', '.join(str(rows[i]) for i in batch)};" in line
    assert (tiny.read(folder, "status.json")["status"], steps(folder)) == (
        "failed",
        ["step-00000004"],
    )
    assert files.is_whole(checkpoint.paths(folder)[0])
    assert [entry["step"] for entry in read_log(folder)] == [1, 2, 3, 4]
    assert len(weights) == 5 + behind
    assert not torch.equal(weights[3], weights[4])
    assert torch.equal(weights[4], weights[-1])


def test_weights_get_the_permissions_of_the_umask(tmp_path, distilbert, reviews):
    umask = os.umask(0o022)
    try:
        folder = tiny.train(distilbert, reviews, tmp_path / "run", num_train_epochs=1)
    finally:
        os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def can_mount(folder):
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True, capture_output=True)
        return not subprocess.run(["umount", folder], check=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trials", "count"), [("kills damage", 3), ("signals", 2), ("restarts", 1), ("disk", 2)]
)
# macOS may crash in a fork after torch has started threads, and Windows has no fork.
@pytest.mark.skipif(sys.platform != "linux", reason="the trials fork after importing torch")
def test_a_short_run_of_each_trial(tmp_path, trials, count):
    if trials == "disk" and not can_mount(tmp_path):
        # Only a real full disk gives ENOSPC at an unknown byte.
        pytest.skip("mounts a small disk to fill it, which needs root")
    done = tiny.process(
        sys.executable, tiny.ROOT / "benchmarks" / "trials.py", *trials.split(), "--count", count
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == trials.split()
