"""Linear layers in 8 bits, and predict.py --int8."""

import copy
import gc
import json
import weakref

import numpy
import pytest
import tiny
import torch
import transformers

import predict
from sentiment import inference
from sentiment.fast import int8, packing


def layer(inputs, outputs):
    torch.manual_seed(inputs)
    return torch.nn.Linear(inputs, outputs)


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 256, 600])
def test_it_computes_what_integers_would(count):
    linear = layer(48, 40)
    states = torch.randn(1, count, 48) * torch.rand(1, count, 1) * 9
    rows, weight = states[0].double().numpy(), linear.weight.double().numpy()
    of_rows = numpy.abs(rows).max(axis=1, keepdims=True) / 127
    of_outputs = numpy.abs(weight).max(axis=1) / 63
    products = numpy.rint(rows / of_rows) @ numpy.rint(weight / of_outputs[:, None]).T
    wanted = products * of_rows * of_outputs + linear.bias.double().numpy()
    found = int8.Linear(linear)(states)
    assert found.shape == (1, count, 40)
    # Rounding in float32 may move a number that lies between two integers to the other one.
    assert (numpy.abs(found[0].numpy() - wanted) < 1e-4).mean() > 0.999
    assert found[0].numpy() == pytest.approx(wanted, abs=0.1)


@torch.inference_mode()
def test_the_largest_products_do_not_overflow():
    linear = layer(3072, 32)
    linear.weight.fill_(0.5)
    linear.weight[1::2] *= -1
    found = int8.Linear(linear)(torch.ones(64, 3072))
    assert found == pytest.approx(linear(torch.ones(64, 3072)), rel=1e-4)


@torch.inference_mode()
def test_zeros_and_what_is_not_finite():
    linear = layer(16, 8)
    linear.weight[3] = 0
    states = torch.randn(3, 16)
    states[0], states[1, 4] = 0, torch.nan
    found = int8.Linear(linear)(states)
    assert torch.equal(found[0], linear.bias)
    assert found[1].isnan().all()
    assert found[2, 3] == linear.bias[3]


@pytest.mark.parametrize("kind", packing.ENCODERS)
def test_logits_are_near_and_do_not_depend_on_the_pass(tmp_path, kind):
    tiny.save_model(tmp_path, kind)
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    torch.manual_seed(1)
    model = load(tmp_path, dtype=torch.float32, num_labels=3).eval()
    model.pad_token_id = model.config.pad_token_id
    ours = copy.deepcopy(model)
    packing.install(model, "no")
    packing.install(ours, "no")
    layers = [each for each in ours.base_model.modules() if type(each) is torch.nn.Linear]
    weights = [weakref.ref(layer.weight) for layer in layers]
    int8.install(ours.base_model)
    del layers
    gc.collect()
    assert not any(weight() is not None for weight in weights)
    ids = [torch.randint(5, model.config.vocab_size, (n,)) for n in (30, 3, 22, 9)]
    found, wanted = inference.logits(ours, ids, "no"), inference.logits(model, ids, "no")
    assert not torch.equal(found, wanted)
    assert found == pytest.approx(wanted, abs=0.2 * wanted.std().item())
    alone = torch.cat([inference.logits(ours, [each], "no") for each in ids])
    assert found == pytest.approx(alone, abs=1e-3 * wanted.std().item())


AVX2 = torch.cpu.get_capabilities().get("avx2")


# predict.py refuses it elsewhere, which has a test of its own.
@pytest.mark.skipif(not AVX2, reason="--int8 needs AVX2")
def test_predict_answers_nearly_the_same(trained, capsys):
    texts = [text for text, _ in tiny.reviews(40, seed=3)]
    found = []
    for flags in ([], ["--int8"]):
        given = ["--model_name_or_path", str(trained), "--output_format", "jsonl", *flags]
        predict.main([*given, *texts])
        rows = map(json.loads, capsys.readouterr().out.splitlines())
        found.append(numpy.array([list(row["probabilities"].values()) for row in rows]))
    assert found[1] == pytest.approx(found[0], abs=0.05)
    assert numpy.abs(found[1] - found[0]).max() > 1e-4


def test_where_it_cannot_work_is_one_line(trained, monkeypatch, refusal):
    argv = ["--model_name_or_path", trained, "--int8", "good"]
    with monkeypatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict)
        assert "AVX2" in refusal(predict.main, argv)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    monkeypatch.delitem(packing.ENCODERS, "distilbert")
    assert "bert, roberta, not distilbert" in refusal(predict.main, argv)
