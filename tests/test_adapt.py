"""Continued pretraining: benchmarks/adapt.py."""

import json
import sys

import pytest
import tiny
import torch
import transformers

sys.path.insert(0, str(tiny.ROOT / "benchmarks"))
import adapt

from sentiment import batches, inference

SETTINGS = {"num_train_epochs": 2, "train_batch_size": 8, "max_length": 32}


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [json.dumps({"text": text}) for text, _ in tiny.reviews(20, seed=5)]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path, distilbert, texts, monkeypatch):
    """run(name, **settings): adapt in fp32; returns the weights."""
    monkeypatch.setattr(adapt.device, "pick_precision", lambda *_: "no")
    monkeypatch.setattr(adapt, "HEAD_STEPS", 3)
    monkeypatch.setattr(adapt, "CHECKPOINTING_STEPS", 2)

    def run(name, **settings):
        given = {"model_name_or_path": distilbert, "dataset_name": texts, **SETTINGS, **settings}
        adapt.main(tiny.flags(**given, output_dir=tmp_path / name))
        return (tmp_path / name / "model.safetensors").read_bytes()

    return run


def test_masks_follow_devlin_et_al(distilbert):
    tokenizer = transformers.AutoTokenizer.from_pretrained(distilbert)
    ids = torch.randint(10, len(tokenizer), (20_000,))
    ids[::10] = tokenizer.sep_token_id
    given = ids.clone()
    shown, positions, wanted = adapt.mask(ids, tokenizer, 1)
    assert torch.equal(ids, given)
    assert torch.equal(wanted, ids[positions])
    assert not (positions % 10 == 0).any()
    assert abs(len(positions) / 18_000 - 0.15) < 0.01
    masked = shown[positions] == tokenizer.mask_token_id
    kept = shown[positions] == wanted
    assert abs(masked.float().mean() - 0.8) < 0.03
    assert abs(kept.float().mean() - 0.1) < 0.03  # and a few that are replaced by themselves
    others = torch.ones(len(ids), dtype=torch.bool).scatter(0, positions, False)
    assert torch.equal(shown[others], ids[others])
    again, other = adapt.mask(ids, tokenizer, 1), adapt.mask(ids, tokenizer, 2)
    assert torch.equal(again[0], shown)
    assert not torch.equal(other[0], shown)


@pytest.mark.parametrize("kind", list(adapt.HEADS))
def test_the_head_sees_the_masked_tokens_of_the_stock_model(tmp_path, kind):
    tiny.save_model(tmp_path, kind)
    load = transformers.AutoModelForMaskedLM.from_pretrained
    torch.manual_seed(1)
    stock = load(tmp_path, dtype=torch.float32).eval()
    torch.manual_seed(1)
    ours = load(tmp_path, dtype=torch.float32).eval()
    ours.pad_token_id = stock.config.pad_token_id
    places = adapt.prepare(ours, "no")
    ids = [torch.randint(5, ours.config.vocab_size, (length,)) for length in (9, 4, 7)]
    chosen = [torch.tensor([1, 5]), torch.tensor([0]), torch.tensor([2, 6])]
    [(group, inputs, _)] = inference.passes(ours, ids, range(3), 10**6)
    starts = inputs["layout"].starts.tolist()
    places[:] = [torch.cat([starts[at] + chosen[i] for at, i in enumerate(group)])]
    logits = ours(**inputs).logits[0]
    padded = stock(**batches.pad([ids[i] for i in group], ours.pad_token_id)).logits
    wanted = torch.cat([padded[at, chosen[i]] for at, i in enumerate(group)])
    assert torch.allclose(logits, wanted, rtol=0, atol=1e-5)


def test_a_killed_run_continues_bit_identically(run, monkeypatch, tmp_path):
    whole = run("whole")
    save = adapt.checkpoint.save

    def killed(given, step, *state):
        save(given, step, *state)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adapt.checkpoint, "save", killed)
        with pytest.raises(SystemExit):
            run("killed")
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert run("killed") == whole
    assert run("other seed", seed=2) != whole


def test_train_starts_from_an_adapted_model(run, tmp_path, reviews):
    run("adapted")
    tiny.train(tmp_path / "adapted", reviews, tmp_path / "run", num_train_epochs=1)
    assert tiny.read(tmp_path / "run", "status.json")["status"] == "finished"
    kind = transformers.AutoConfig.from_pretrained(tmp_path / "adapted").architectures
    assert kind == ["DistilBertForMaskedLM"]
