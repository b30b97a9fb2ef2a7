"""Continued pretraining: benchmarks/adapt.py."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
import transformers

sys.path.insert(0, str(tiny.ROOT / "benchmarks"))
import adapt

from sentiment import batches, tokens

SETTINGS = {"num_train_epochs": 2, "train_batch_size": 8, "max_length": 32, "mixed_precision": "no"}


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [{"text": text, "label": label} for text, label in tiny.reviews(44, seed=5)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path, distilbert, texts):
    """run(name, **settings): adapt; returns the weights."""

    def run(name, *more, **settings):
        given = {"model_name_or_path": distilbert, "dataset_name": texts, **SETTINGS, **settings}
        adapt.main([*tiny.flags(**given, output_dir=tmp_path / name), *more])
        return (tmp_path / name / "model.safetensors").read_bytes()

    return run


class Recording(transformers.DataCollatorForLanguageModeling):
    """Keeps what it masked."""

    def torch_mask_tokens(self, ids, **options):
        masked = super().torch_mask_tokens(ids, **options)
        self.shown, self.labels = (each[0].clone() for each in masked)
        return masked


@pytest.mark.parametrize("kind", list(adapt.HEADS))
def test_gradients_are_those_of_the_stock_model(tmp_path, kind):
    tiny.save_model(tmp_path, kind)
    stock, ours = (
        transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
        for _ in range(2)
    )
    ours.load_state_dict(stock.state_dict())  # a new head differs
    ours.pad_token_id = padding = stock.config.pad_token_id
    places, accelerator = adapt.pack(ours, "no"), adapt.launch.start("no")
    gradients = adapt.Gradients(accelerator, list(ours.parameters()))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokens.encode(tokenizer, [text for text, _ in tiny.reviews(20, seed=1)])
    collator, batch = Recording(tokenizer), list(range(20))
    given = places, ids, collator, batch, 1, 7, 30
    adapt.accumulate(gradients, ours, *given)
    loss, *_ = gradients.reduce((), 0).tolist()

    lengths = ids.lengths.tolist()
    inputs = batches.pad(list(collator.shown.split(lengths)), padding)
    labels = batches.pad(list(collator.labels.split(lengths)), -100)["input_ids"]
    wanted = stock(**inputs, labels=labels).loss
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    for expected, found in zip(stock.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_masks_follow_devlin_et_al_and_differ_by_step_and_seed(distilbert, monkeypatch):
    tokenizer = transformers.AutoTokenizer.from_pretrained(distilbert)
    monkeypatch.setattr(adapt.inference, "passes", lambda *_: [])
    ids = tokens.encode(tokenizer, [" ".join(tiny.WORDS * 20)] * 30)

    def masked(step, seed):
        gradients = adapt.Gradients(adapt.launch.start("no"), [])
        collator, batch = Recording(tokenizer), list(range(30))
        adapt.accumulate(gradients, None, [], ids, collator, batch, seed, step, 100)
        return collator.shown, collator.labels

    read, labels = masked(1, 1)
    given = torch.cat(list(ids))
    asked = labels >= 0
    special = given < 5
    assert special.any()
    assert not (asked & special).any()
    assert torch.equal(labels[asked], given[asked])
    assert torch.equal(read[~asked], given[~asked])
    assert asked.sum() / (~special).sum() == pytest.approx(0.15, abs=0.02)
    assert (read[asked] == tokenizer.mask_token_id).float().mean() == pytest.approx(0.8, abs=0.04)
    # and a few that are replaced by themselves
    assert (read[asked] == given[asked]).float().mean() == pytest.approx(0.1, abs=0.04)
    assert torch.equal(masked(1, 1)[0], read)
    assert not torch.equal(masked(2, 1)[0], read)
    assert not torch.equal(masked(1, 2)[0], read)


@pytest.mark.parametrize("last", [1, 2, 5])  # of 22 steps, 2 with a frozen encoder
def test_a_killed_run_resumes_bit_identically(run, monkeypatch, tmp_path, bert, last):
    given = {"model_name_or_path": bert, "train_batch_size": 4, "checkpointing_steps": 1}
    whole = run("whole", **given)
    with monkeypatch.context() as patch:
        tiny.crash_at(patch, adapt, "accumulate", last + 1)
        with pytest.raises(tiny.Crash):
            run("killed", **given)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert run("killed", "--resume", **given) == whole
    assert run("other seed", seed=2, **given) != whole
    steps, _ = tiny.read_log(tmp_path / "killed")
    assert [entry["step"] for entry in steps] == list(range(1, 23))


def encoder_by_step(monkeypatch, prefix):
    """A list that gets the weights below a prefix, and how often AdamW has stepped since its state
    was cleared, at each checkpoint.
    """
    found, save = [], adapt.checkpoint.save

    def keep(run, step, max_tokens, accelerator, lm, optimizer):
        state = lm.state_dict().items()
        found.append({name: part.clone() for name, part in state if name.startswith(prefix)})
        found[-1]["steps"] = max(each["step"].clone() for each in optimizer.state.values())
        save(run, step, max_tokens, accelerator, lm, optimizer)

    monkeypatch.setattr(adapt.checkpoint, "save", keep)
    return found


def changed(now, before):
    return [name for name in before if not torch.equal(now[name], before[name])]


def test_a_new_head_learns_alone_at_first(tmp_path, bert, run, monkeypatch):
    """Our tiny BERT is saved without a head."""
    found = encoder_by_step(monkeypatch, "")
    run("adapted", model_name_or_path=bert, train_batch_size=4, checkpointing_steps=1)
    original = safetensors.torch.load_file(bert / "model.safetensors")
    original = {f"bert.{name}": part for name, part in original.items() if "pooler" not in name}
    assert [changed(weights, original) for weights in found[:2]] == [[], []]
    assert changed(found[2], original) == list(original)
    assert "cls.predictions.transform.dense.weight" in changed(found[1], found[0])
    assert [weights["steps"] for weights in found[:4]] == [1, 2, 1, 2]
    rates = [entry["learning_rate"] for entry in tiny.read_log(tmp_path / "adapted")[0]]
    assert rates[:3] == [1e-3, 1e-3, 1e-4]  # then two steps of warm-up


def test_an_encoder_with_a_head_learns_at_once(tmp_path, distilbert, run, monkeypatch):
    found = encoder_by_step(monkeypatch, "distilbert.")
    run("adapted", checkpointing_steps=1)
    original = safetensors.torch.load_file(distilbert / "model.safetensors")
    original = {name: part for name, part in original.items() if name.startswith("distilbert.")}
    assert changed(found[0], original) == list(original)


def test_the_loss_falls(run, tmp_path):
    run("adapted", num_train_epochs=10, learning_rate=1e-2)
    losses = [entry["loss"] for entry in tiny.read_log(tmp_path / "adapted")[0]]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_finished_run_is_not_trained_again(run, tmp_path, monkeypatch):
    weights = run("adapted")
    monkeypatch.setattr(adapt, "adapt", None)
    assert run("adapted", "--resume") == weights


def test_a_finished_run_does_not_resume_with_other_settings(
    run, texts, tmp_path, distilbert, refusal
):
    run("adapted")
    given = {"model_name_or_path": distilbert, "dataset_name": texts, **SETTINGS, "seed": 2}
    argv = [*tiny.flags(**given, output_dir=tmp_path / "adapted"), "--resume"]
    assert "seed 2 (was 42)" in refusal(adapt.main, argv)


def test_out_of_memory_halves_the_budget_and_changes_nothing_else(run, monkeypatch, capsys):
    """Memory runs out after the first pass of a step, when there are gradients."""
    half = run("half", max_tokens_per_device=50)
    passes = adapt.inference.passes

    def limited(lm, ids, chosen, max_tokens):
        for each in passes(lm, ids, chosen, max_tokens):
            yield each
            if max_tokens > 50:
                raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(adapt.inference, "passes", limited)
    assert run("retried", max_tokens_per_device=100) == half
    assert capsys.readouterr().err.count("continuing with at most 50 tokens") == 1


def test_labels_may_all_be_equal(run, tmp_path):
    rows = [(text, "none") for text, _ in tiny.reviews(20, seed=1)]
    run("adapted", dataset_name=tiny.write(tmp_path / "unlabelled.csv", rows))


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(run, tmp_path, texts):
    model = tiny.save_model(tmp_path / "calm", "distilbert", **tiny.NO_DROPOUT)
    run("one", model_name_or_path=model, train_batch_size=43)
    given = {"model_name_or_path": model, "dataset_name": texts, **SETTINGS}
    given |= {"train_batch_size": 43}  # and a last batch of one text
    argv = tiny.flags(**given, output_dir=tmp_path / "two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    done = tiny.process(*launch, "benchmarks/adapt.py", *argv)
    assert done.returncode == 0, done.stderr
    one, two = (
        [entry["loss"] for entry in tiny.read_log(tmp_path / name)[0]] for name in ("one", "two")
    )
    assert two == pytest.approx(one, abs=1e-5)


def test_train_starts_from_an_adapted_model(run, tmp_path, reviews):
    run("adapted")
    assert not (tmp_path / "adapted" / "checkpoints").exists()
    tiny.train(tmp_path / "adapted", reviews, tmp_path / "run", num_train_epochs=1)
    assert tiny.read(tmp_path / "run", "status.json")["status"] == "finished"
    assert tiny.read(tmp_path / "adapted", "config.json")["architectures"] == [
        "DistilBertForMaskedLM"
    ]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"output_dir": "model"}, "already holds"),
        ({"text_column": "body"}, "--text_column body"),
        ({"dataset_name": "blank.csv"}, "no labelled text (dropped: 1 without text"),
        ({}, "model: is distilbert; only bert with a mask token will do"),
        ({"dataset_name": "none.jsonl"}, "no such file"),
        ({"max_length": 7}, "expected an integer >= 8"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path, distilbert, texts, refusal, monkeypatch, given, named
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(distilbert, "model")
    tiny.write(Path("blank.csv"), [("", "positive")])
    monkeypatch.setattr(adapt, "HEADS", {"bert": "cls"})
    args = {"model_name_or_path": "model", "dataset_name": texts, "output_dir": "new"}
    assert named in refusal(adapt.main, tiny.flags(**args | SETTINGS | given))
    assert not (tmp_path / "new").exists()


def test_a_diverged_run_fails_by_name(run, distilbert, texts, tmp_path, refusal):
    args = {"model_name_or_path": distilbert, "dataset_name": texts, "output_dir": tmp_path / "x"}
    args |= SETTINGS | {"learning_rate": 1e30}
    assert "try a lower --learning_rate" in refusal(adapt.main, tiny.flags(**args), 1)
    assert tiny.read(tmp_path / "x", "status.json")["status"] == "failed"
