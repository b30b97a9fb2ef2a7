"""Models of many kinds: the logits of the stock model on each text alone, or a refusal by name."""

import json
import shutil

import pytest
import tiny
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import evaluate
import predict
import train
from sentiment import inference, tokens
from sentiment.errors import UserError
from sentiment.fast import packing
from sentiment.hub import trial

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *dict.fromkeys(tiny.WORDS)]
TEXTS = ["dull", "a film with a witty story and moving music", "the cast was stale", "film " * 40]
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE |= {"intermediate_size": 64, "pad_token_id": 0}
OFFSET = {"max_position_embeddings": 66}  # RoBERTa counts positions from behind the padding id
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64}
BART |= {"decoder_ffn_dim": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "pad_token_id": 0}
MODERN = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
KINDS = {
    "DistilBert": DISTILBERT,
    "Bert": SIZE,
    "Roberta": SIZE | OFFSET,
    "ModernBert": SIZE | MODERN,
    "Electra": SIZE | {"embedding_size": 32},
    "Albert": SIZE | {"embedding_size": 16},
    "MPNet": SIZE,
    "Deberta": SIZE,
    "DebertaV2": SIZE,
    "Bart": BART,
    "Camembert": SIZE | OFFSET,
    "XLMRoberta": SIZE | OFFSET,
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2},  # the padding token is the tokenizer's only
    "XLNet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "pad_token_id": 0},
}


def make_tokenizer(**settings):
    """One token for each word; [CLS] is the first, or the last for XLNet."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "$A [SEP] [CLS]" if settings.get("padding_side") == "left" else "[CLS] $A [SEP]"
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ends)
    given = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 64, **settings}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given)


def make(folder, kind, tokenizer=None, **changes):
    """Save a classifier with random weights."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(WORDS), **KINDS[kind], **changes)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 6  # else all texts have nearly the same logits
    model.save_pretrained(folder)
    side = "left" if kind == "XLNet" else "right"
    (tokenizer or make_tokenizer(padding_side=side)).save_pretrained(folder)
    return folder


def alone(folder):
    """The stock model's logits, one text at a time, without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = [tokenizer(text, return_tensors="pt", truncation=True)["input_ids"] for text in TEXTS]
    with torch.inference_mode():
        return torch.cat([stock(input_ids=each).logits for each in ids])


def ours(folder):
    tokenizer, classifier = trial.load_trained(str(folder))
    return inference.logits(classifier, tokens.encode(tokenizer, TEXTS), "no")


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(tmp_path, kind):
    folder = make(tmp_path / "model", kind)
    assert (ours(folder) - alone(folder)).abs().max() < 1e-5
    assert ours(folder).std(dim=0).min() > 1e-2  # else any logits would agree


@pytest.mark.parametrize("kind", KINDS)
def test_all_run_under_bf16(tmp_path, kind):
    """The default where a CPU supports it; torch emulates it elsewhere. DeBERTa stays in fp32."""
    folder = make(tmp_path / "model", kind)
    wanted = alone(folder)
    tokenizer, classifier = trial.load_trained(str(folder))
    packing.install(classifier, "bf16")
    logits = inference.logits(classifier, tokens.encode(tokenizer, TEXTS), "bf16")
    limit = 1e-5 if kind == "Deberta" else 0.05 * wanted.abs().max()
    assert (logits - wanted).abs().max() < limit


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_side_is_the_model_s_not_the_tokenizer_s(tmp_path, side):
    """GPT-2's positions would count padding on the left."""
    folder = make(tmp_path / "model", "GPT2", make_tokenizer(padding_side=side))
    assert (ours(folder) - alone(folder)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["GPT2", "XLNet", "Bart"])
def test_it_trains_and_is_saved_for_the_stock_pipeline(tmp_path, kind, reviews):
    model = make(tmp_path / "model", kind)
    folder = tiny.train(model, reviews, tmp_path / "run", num_train_epochs=1)
    assert (ours(folder) - alone(folder)).abs().max() < 1e-5
    classify = transformers.pipeline("text-classification", model=str(folder), truncation=True)
    # The pipeline cannot split what XLNet returns for a batch.
    batched = classify(TEXTS, batch_size=1 if kind == "XLNet" else 4, top_k=None)
    wanted = alone(folder).softmax(dim=1)
    names = ["negative", "positive"]
    for answers, probabilities in zip(batched, wanted, strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert [scores[name] for name in names] == pytest.approx(probabilities.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", ["DistilBert", "Bert", "Roberta", "GPT2", "XLNet", "Bart"])
def test_a_temperature_divides_the_logits(tmp_path, kind):
    """Whatever the head: the run without a validation split has the logits as they were."""
    model, folder = make(tmp_path / "model", kind), tmp_path / "data"
    folder.mkdir()
    for split, seed in (("train", 1), ("validation", 2), ("test", 3)):
        tiny.write(folder / f"{split}.csv", tiny.reviews(16, seed))
    given = {"num_train_epochs": 1, "label_smoothing_factor": 0}
    run = tiny.train(model, folder, tmp_path / "run", **given)
    plain = tiny.train(model, folder, tmp_path / "plain", validation_split_name="none", **given)
    temperature = tiny.read(run, "metrics.json")["temperature"]
    assert abs(temperature - 1) > 0.1
    assert torch.allclose(ours(run) * temperature, ours(plain), atol=1e-4)


def test_a_model_that_padding_confuses_is_refused(tmp_path, monkeypatch):
    folder = make(tmp_path / "model", "Bert")
    kind = transformers.BertForSequenceClassification
    forward = kind.forward

    def mean(self, input_ids, attention_mask):
        output = forward(self, input_ids=input_ids, attention_mask=attention_mask)
        output.logits = output.logits * input_ids.float().mean(dim=1, keepdim=True)
        return output

    monkeypatch.setattr(kind, "forward", mean)
    with pytest.raises(UserError, match="padding changes its answers: bert is not supported"):
        trial.load_trained(str(folder))


HEADS = {
    "multi_label": {"problem_type": "multi_label_classification", "num_labels": 3},
    "regression": {"problem_type": "regression", "num_labels": 1},
    "for regression": {"num_labels": 1},
}


@pytest.mark.parametrize("name", HEADS)
def test_other_heads_are_refused_by_name(tmp_path, reviews, refusal, name):
    folder = make(tmp_path / "model", "DistilBert", **HEADS[name])
    argv = ["--model_name_or_path", folder]
    output = ["--output_dir", tmp_path / "out", "--dataset_name", reviews]
    assert name in refusal(predict.main, [*argv, "dull"])
    assert name in refusal(evaluate.main, [*argv, *output])
    tiny.train(folder, reviews, tmp_path / "run", num_train_epochs=1)
    config = tiny.read(tmp_path / "run", "config.json")
    assert config["problem_type"] == "single_label_classification"


def no_padding(folder):
    make(folder, "DistilBert", make_tokenizer(pad_token=None))


def only_pickle(folder):
    make(folder, "DistilBert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def only_sentencepiece(folder):
    make(folder, "XLMRoberta")
    (folder / "tokenizer.json").rename(folder / "sentencepiece.bpe.model")


def shards(folder):
    make(folder, "DistilBert")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))


REFUSED = {
    no_padding: ["padding token"],
    only_pickle: ["no model.safetensors", "save_pretrained", "--revision refs/pr/N"],
    only_sentencepiece: ["no tokenizer.json", "save_pretrained", "sentencepiece"],
    shards: ["no model.safetensors", "save_pretrained"],
}


@pytest.mark.parametrize("how", REFUSED, ids=lambda how: how.__name__)
def test_what_cannot_be_read_is_refused_with_a_way_out(tmp_path, reviews, refusal, how):
    how(tmp_path / "model")
    before = sorted(path.name for path in (tmp_path / "model").iterdir())
    argv = ["--model_name_or_path", tmp_path / "model"]
    output = ["--output_dir", tmp_path / "out", "--dataset_name", reviews]
    predicted = refusal(predict.main, [*argv, "dull"])
    trained = refusal(train.main, [*argv, *output, "--mixed_precision", "no"])
    for error in (predicted, trained):
        assert [part for part in REFUSED[how] if part not in error] == []
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == before


def test_the_way_out_works(tmp_path):
    """As the refusal says: load it with transformers, and save it."""
    folder = make(tmp_path / "model", "DistilBert")
    wanted = alone(folder)
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    torch.save(stock.state_dict(), folder / "pytorch_model.bin")
    del stock  # Windows does not remove a mapped file
    (folder / "model.safetensors").unlink()
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "converted")
    shutil.copy(folder / "tokenizer.json", tmp_path / "converted")
    shutil.copy(folder / "tokenizer_config.json", tmp_path / "converted")
    assert torch.equal(alone(tmp_path / "converted"), wanted)
    assert (ours(tmp_path / "converted") - wanted).abs().max() < 1e-5
