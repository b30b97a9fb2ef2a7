"""The packed encoder against the stock padded one."""

import contextlib
import copy
import random
from types import SimpleNamespace

import pytest
import tiny
import torch
import transformers

from sentiment import batches, inference
from sentiment.fast import attention, packing
from sentiment.fast.dropout import Dropout, dropout_mask
from sentiment.fast.graphs import Graphs

CPU = torch.device("cpu")
KINDS = ("distilbert", "bert", "roberta")
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # BERT's and RoBERTa's
BATCHES = {
    "one review": [9],
    "equal lengths": [12, 12, 12, 12],
    "one very long review": [64, 3, 5, 3, 3, 9],
    "ordinary ones": [30, 22, 22, 14, 9, 9, 9, 4],
    "no text": [2, 2, 1],
}


def pair(folder, kind, **settings):
    """(stock model, the same packed), in training mode, without dropout unless in `settings`."""
    settings = {**(tiny.NO_DROPOUT if kind == "distilbert" else NO_DROPOUT), **settings}
    tiny.save_model(folder, kind, **settings)
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    torch.manual_seed(1)
    stock = load(folder, dtype=torch.float32, num_labels=3).train()
    stock.pad_token_id = stock.config.pad_token_id
    ours = copy.deepcopy(stock)
    packing.install(ours, "no")
    return stock, ours


def texts(lengths, model):
    rng = random.Random(str(lengths))
    return [
        torch.tensor([rng.randrange(5, model.config.vocab_size) for _ in range(n)]) for n in lengths
    ]


def compute(model, reviews):
    """Logits of all reviews in one pass; padded by the stock model."""
    [(ids, inputs, _)] = inference.passes(model, reviews, range(len(reviews)), 10**6)
    packed = model.config._attn_implementation == attention.NAME
    assert ("layout" in inputs) == packed == ("attention_mask" not in inputs)
    return model(**inputs).logits[torch.tensor(ids).argsort()]


def kernel(query, key, value, bias, *where, scale):
    """What `_efficient_attention_forward` computes on a GPU, without dropout."""
    query_starts, key_starts, most_queries, most_keys, dropout, causal, backward = where
    assert (bias, dropout, causal, backward) == (None, 0.0, 0, True)
    parts = []
    for states, starts, most in (
        (query, query_starts, most_queries),
        (key, key_starts, most_keys),
        (value, key_starts, most_keys),
    ):
        assert starts.dtype == torch.int32
        assert starts[-1] == states.shape[1]  # it leaves the rest unwritten
        assert 0 < starts.diff().min() <= starts.diff().max() <= most
        parts.append(states[0].tensor_split(starts[1:-1].long()))
    attend = torch.nn.functional.scaled_dot_product_attention
    attended = [
        attend(*(states.transpose(0, 1) for states in review), scale=scale).transpose(0, 1)
        for review in zip(*parts, strict=True)
    ]
    return torch.cat(attended)[None], None


@pytest.mark.parametrize("way", ["a CPU's", "a GPU's"])
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_all_gradients_match_the_padded_model(tmp_path, kind, lengths, way, monkeypatch):
    monkeypatch.setattr(torch.ops.aten, "_efficient_attention_forward", kernel)
    models = pair(tmp_path, kind)
    reviews, labels = texts(lengths, models[0]), torch.tensor([i % 3 for i in range(len(lengths))])
    found = []
    for model in models:
        if way == "a GPU's" and model is models[1]:
            one_hot = torch.nn.functional.one_hot(labels, 3).float()
            inputs, targets = packing.in_one_row(model, reviews, one_hot)
            logits = model(**inputs).logits
        else:
            logits, targets = compute(model, reviews), labels
        torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
        found.append((logits[: len(lengths)], [p.grad for p in model.parameters()]))
    (wanted, gradients), (logits, ours) = found
    assert torch.allclose(logits, wanted, rtol=0, atol=1e-5)
    for (name, _), gradient, expected in zip(
        models[0].named_parameters(), ours, gradients, strict=True
    ):
        assert torch.allclose(gradient, expected, rtol=0, atol=1e-4), name


@pytest.mark.parametrize(
    ("lengths", "tokens", "reviews", "longest"),
    [
        ([9], 512, 32, 512),
        ([2] * 31, 512, 32, 512),
        ([2] * 32, 512, 64, 512),
        ([500], 1024, 32, 512),
        ([481], 512, 32, 512),
        ([513, 512], 1536, 32, 1024),
        ([16] * 100, 2048, 128, 512),
    ],
)
def test_a_gpu_sees_few_different_shapes(tmp_path, lengths, tokens, reviews, longest):
    """Made-up reviews, at least one, fill up the row; each has a token or more."""
    _, model = pair(tmp_path, "roberta")
    given = torch.rand(len(lengths), 3)
    inputs, targets = packing.in_one_row(model, texts(lengths, model), given)
    layout = inputs["layout"]
    assert inputs["input_ids"].shape == inputs["position_ids"].shape == (1, tokens)
    assert layout.starts.tolist()[: len(lengths)] == [sum(lengths[:i]) for i in range(len(lengths))]
    assert layout.starts[-1] == tokens
    assert targets.shape == (len(layout.starts) - 1, 3) == (reviews, 3)
    assert layout.starts.diff().min() >= 1
    assert layout.starts.diff().max() <= layout.longest == longest
    assert torch.equal(targets[: len(lengths)], given)
    assert not targets[len(lengths) :].any()


@pytest.mark.parametrize(("kind", "first"), [("distilbert", 0), ("bert", 0), ("roberta", 2)])
def test_a_gpu_gets_each_token_with_its_position(tmp_path, kind, first):
    _, model = pair(tmp_path, kind)
    reviews = texts([3, 2], model)
    inputs, targets = packing.in_one_row(model, reviews, torch.empty(2, 0))  # to predict
    padding = [model.pad_token_id] * 507
    assert inputs["input_ids"].tolist() == [torch.cat(reviews).tolist() + padding]
    positions = [0, 1, 2, 0, 1] + [0] * 507
    assert inputs["position_ids"].tolist() == [[first + position for position in positions]]
    assert targets.shape == (32, 0)


class Recorder:
    """A fake of torch.cuda.CUDAGraph and torch.cuda.graph that counts captures and replays."""

    made, recording, pools = [], False, []

    def __init__(self):
        self.made.append(self)

    def pool(self):
        return id(self.made[0])

    def replay(self):
        self.replays = getattr(self, "replays", 0) + 1

    @classmethod
    @contextlib.contextmanager
    def graph(cls, graph, pool, capture_error_mode):
        cls.pools.append(pool)
        cls.recording = True
        yield
        cls.recording = False


def test_a_shape_is_recorded_at_its_second_pass_and_then_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setattr(Recorder, "pools", [])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(torch.cuda, "graph", Recorder.graph)
    _, model = pair(tmp_path, "distilbert")
    seen = []

    def run(length, weight=1.0):
        seen.clear()
        inputs, targets = packing.in_one_row(model, texts([length], model), torch.ones(1, 2))
        given = inputs, targets * weight
        return compute(*given), given

    compute = Graphs(lambda *given: seen.append((Recorder.recording, given)) or torch.ones(()))
    run(9)
    assert [recording for recording, _ in seen] == [False]
    first, (own, targets) = run(8)
    assert [recording for recording, _ in seen] == [True]
    again, (inputs, *_) = run(7, weight=0.5)
    assert not seen
    assert again is first
    assert torch.equal(own["input_ids"], inputs["input_ids"])  # the new review, where the old was
    assert torch.equal(own["layout"].starts, inputs["layout"].starts)
    assert targets[0].tolist() == [0.5, 0.5]
    assert [graph.replays for graph in Recorder.made] == [2]
    run(600)
    assert [recording for recording, _ in seen] == [False]
    run(600)
    assert Recorder.pools == [None, Recorder.made[0].pool()]
    compute.clear()
    run(9)
    assert [recording for recording, _ in seen] == [False]


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_as_close_to_fp32_as_padded_bf16(tmp_path, kind):
    stock, ours = pair(tmp_path, kind)
    reviews = [review for lengths in BATCHES.values() for review in texts(lengths, stock)]
    with torch.no_grad():
        exact = compute(stock, reviews)
        with torch.autocast("cpu", torch.bfloat16):
            padded, packed = compute(stock, reviews).float(), compute(ours, reviews).float()
    assert 0 < (packed - exact).square().mean() < 2 * (padded - exact).square().mean()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_layout_the_model_is_the_stock_one(tmp_path, kind):
    stock, ours = pair(tmp_path, kind)
    inputs = batches.pad(texts([9, 4, 2], stock), stock.config.pad_token_id)
    assert torch.equal(ours(**inputs).logits, stock(**inputs).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_packed_and_shares_nothing(tmp_path, kind):
    _, ours = pair(tmp_path, kind)
    reviews = texts([9, 4, 2], ours)
    other = copy.deepcopy(ours)
    before = compute(ours, reviews)
    assert torch.equal(compute(other, reviews), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    assert not torch.allclose(compute(other, reviews), before)
    assert torch.equal(compute(ours, reviews), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_a_stock_one(tmp_path, kind):
    stock, ours = pair(tmp_path / "pretrained", kind)
    compute(ours, texts([9, 4], ours))
    stock.save_pretrained(tmp_path / "stock")
    ours.save_pretrained(tmp_path / "ours")
    written = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "stock").iterdir()}
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    assert again.config._attn_implementation == "sdpa"


def test_inference_matches_padded_logits_for_any_token_budget(tmp_path):
    stock, ours = pair(tmp_path, "distilbert")
    reviews = texts([random.Random(1).randint(1, 40) for _ in range(25)], stock)
    wanted = inference.logits(stock, reviews, "no")
    for max_tokens in (1, 50, 10**6, None):
        done = []
        found = inference.logits(ours, reviews, "no", done.append, max_tokens)
        assert torch.allclose(found, wanted, rtol=0, atol=1e-5)
        assert sum(done) == 25


def test_padding_counts_where_the_model_is_padded(tmp_path):
    stock, ours = pair(tmp_path, "distilbert")
    reviews = texts([10, 2, 2, 2], ours)
    for model, wanted in ((ours, [[0, 1, 2, 3]]), (stock, [[0, 1], [2, 3]])):
        assert packing.applies(model) is (model is ours)
        assert [group for group, *_ in inference.passes(model, reviews, range(4), 20)] == wanted


def test_another_architecture_is_padded(tmp_path):
    size = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    model = transformers.ElectraForSequenceClassification(
        transformers.ElectraConfig(vocab_size=90, **size)
    ).eval()
    model.pad_token_id = 0
    stock = copy.deepcopy(model)
    packing.install(model, "no")
    reviews = texts([9, 4, 2], model)
    inputs = batches.pad(reviews, 0)
    assert "layout" not in next(inference.passes(model, reviews, range(3), 100))[1]
    assert torch.allclose(
        inference.logits(model, reviews, "no"), stock(**inputs).logits, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", ["attention_dropout", "attention_probs_dropout_prob"])
@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, True),
        ({"precision": "fp16"}, True),
        ({"precision": "no"}, False),
        ({"precision": "no", "dropout": 0.0}, True),
        ({"precision": "fp16", "capability": (7, 5)}, False),
        ({"precision": "fp16", "capability": (7, 5), "dropout": 0.0}, True),
        ({"device": "mps"}, False),
        ({"heads": 64}, False),
    ],
)
def test_a_gpu_needs_what_its_kernel_takes(change, wanted, name, monkeypatch):
    given = {"device": "cuda", "precision": "bf16", "heads": 12, "capability": (8, 0)}
    given |= {"dropout": 0.1, **change}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: given["capability"])
    config = SimpleNamespace(hidden_size=768, num_attention_heads=given["heads"])
    setattr(config, name, given["dropout"])
    model = SimpleNamespace(config=config, device=torch.device(given["device"]))
    assert attention.kernel_supports(model, given["precision"]) is wanted


@pytest.mark.parametrize(
    ("gigabytes", "hidden", "layers", "tokens"),
    [(150, 768, 6, 32768), (80, 768, 6, 28672), (16, 768, 6, 5120), (8, 1024, 24, 512)],
)
def test_the_token_budget_depends_on_the_model_and_the_card(
    gigabytes, hidden, layers, tokens, monkeypatch
):
    card = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    config = SimpleNamespace(hidden_size=hidden, num_hidden_layers=layers)
    model = SimpleNamespace(config=config, device=torch.device("cuda"))
    assert inference.token_budget(model) == tokens
    model.device = CPU
    assert inference.token_budget(model) == 4096


def states(tokens, heads=2, width=8):
    torch.manual_seed(3)
    return torch.randn(3, tokens, heads, width)


@pytest.mark.parametrize("queries", [9, 1])
def test_attention_by_products_and_its_gradients_match_torch(queries):
    torch.manual_seed(3)
    query, key, value = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (queries, 9, 9))
    weights = torch.randn(2, 3, queries, 8)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    found = attention.by_products(query, key, value, 0.0)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5)
    gradients = (
        torch.autograd.grad((result * weights).sum(), (query, key, value))
        for result in (found, wanted)
    )
    for gradient, expected in zip(*gradients, strict=True):
        assert torch.allclose(gradient, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_attention_dropout_zeroes_weights_and_scales_the_others(dropout):
    """With unit vectors as values, the output is the attention weights."""
    query, key, _ = states(24)
    value = torch.eye(8).repeat(3, 1)[:, None].expand(24, 2, 8)
    weights, found = (attention.by_review(query, key, value, [[8] * 3], p) for p in (0.0, dropout))
    zero = found == 0
    assert zero.float().mean() == pytest.approx(dropout, abs=0.07)  # of 384
    assert torch.allclose(found[~zero], weights[~zero] / (1 - dropout))


def test_attention_dropout_is_unbiased_and_depends_on_the_seed():
    groups = [[12], [6, 6]]
    query, key, value = states(24)
    exact, total = attention.by_review(query, key, value, groups, 0.0), []
    for seed in range(2000):
        torch.manual_seed(seed)
        total.append(attention.by_review(query, key, value, groups, 0.25))
    total = torch.stack(total)
    errors = (total.mean(0) - exact) / (total.std(0) / 2000**0.5)
    assert errors.abs().max() < 5
    assert errors.std() == pytest.approx(1, abs=0.2)
    torch.manual_seed(7)
    assert torch.equal(attention.by_review(query, key, value, groups, 0.25), total[7])
    assert not torch.equal(total[8], total[7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0001, 0.1, 0.5, 0.9])
def test_any_share_of_elements_is_dropped_independently(dropout, dtype):
    torch.manual_seed(5)
    kept = dropout_mask(torch.empty(100, 1000, 4, dtype=dtype), dropout)
    assert kept.dtype == dtype
    assert kept.unique().tolist() == [0, 1]
    dropped = (kept == 0).double().flatten(0, 1)
    spread = (dropout * (1 - dropout) / 100_000) ** 0.5
    assert (
        dropped.mean(0) - dropout
    ).abs().max() < 5 * spread  # each fourth of the bits of a number
    together = dropped.T @ dropped / 100_000 - torch.eye(4) * dropout
    assert (together - dropout**2 * (1 - torch.eye(4))).abs().max() < 6 * spread


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_of_hidden_states_rescales_and_depends_on_the_seed(dtype):
    dropout, states = (
        Dropout(0.1),
        torch.full((100, 1000), 2.0, dtype=dtype, requires_grad=True),
    )
    torch.manual_seed(1)
    found = dropout(states)
    [gradient] = torch.autograd.grad(found.sum(), states)
    assert found.unique().tolist() == [0, torch.tensor(2 / 0.9).to(dtype)]
    assert torch.equal(gradient, torch.where(found == 0, 0, torch.tensor(1 / 0.9)).to(dtype))
    assert (found == 0).float().mean() == pytest.approx(0.1, abs=0.005)
    torch.manual_seed(1)
    assert torch.equal(dropout(states), found)
    assert dropout.eval()(states) is states


def test_attention_dropout_applies_in_training_only(tmp_path):
    _, ours = pair(tmp_path, "distilbert", attention_dropout=0.3)
    reviews = texts([30, 9, 9], ours)
    computed = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        computed.append(compute(ours, reviews))
    assert torch.equal(computed[0], computed[1])
    assert not torch.allclose(computed[0], computed[2])
    ours.eval()
    assert torch.equal(compute(ours, reviews), compute(ours, reviews))
