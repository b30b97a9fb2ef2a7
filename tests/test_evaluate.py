"""What evaluate.py scores, how it matches labels, compares two models, and where it writes."""

import csv
import shlex
import shutil

import pytest
import tiny
import torch
import transformers

import evaluate
from sentiment import intervals
from sentiment.errors import UserError
from sentiment.report import card


def call(model, **settings):
    evaluate.main(tiny.flags(model_name_or_path=model, **settings))


@pytest.fixture
def copy(tmp_path, trained):
    """A copy of the trained model's folder, to write into."""
    return shutil.copytree(trained, tmp_path / "copy")


def with_classes(folder, trained, names, order=(0, 1)):
    """A copy of the trained model, without run.json, whose class order[i] becomes the i-th."""
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("run.json", "README.md"))
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    head = network.classifier
    head.weight.data, head.bias.data = head.weight.data[list(order)], head.bias.data[list(order)]
    network.config.id2label = dict(enumerate(names))
    network.config.label2id = {name: i for i, name in enumerate(names)}
    network.save_pretrained(folder)
    return folder


# --- Labels and classes

STARS, UNNAMED = ["1 star", "2 stars", "3 stars"], ["LABEL_0", "LABEL_1"]


@pytest.mark.parametrize(
    ("labels", "names", "classes", "rule", "ids"),
    [
        (["b", "a"], ["a", "b"], ["b", "a"], "by name", [0, 1]),
        (["A", "B"], ["A", "B"], ["b", "a"], "by name in any case", [1, 0]),
        (["3", "1"], ["1", "3"], ["1", "2", "3"], "by name", [2, 0]),
        (["2", "1"], ["1", "2"], ["0", "1", "2"], "by name", [2, 1]),
        (["2", "1"], ["1", "2"], ["1", "2", "3"], None, "1=1,2=2"),
        (["2", "1"], ["1", "2", "3"], ["1", "2", "3"], "by name", [1, 0]),
        (["2", "1"], ["0", "1", "2"], ["1", "2", "3"], None, "0=1,1=2,2=3"),
        (["1", "0"], ["0", "1"], ["Negative", "positive"], "by id", [1, 0]),
        (["0"], ["0", "1", "2"], ["negative", "neutral", "positive"], "by id", [0]),
        (["1", "0"], ["0", "1"], ["LABEL_0", "LABEL_1"], "by id", [1, 0]),
        (["positive", "negative"], ["negative", "positive"], UNNAMED, "by order", [1, 0]),
        (["good", "bad"], ["bad", "good"], UNNAMED, None, "bad=LABEL_0,good=LABEL_1"),
        (["0", "1"], ["0", "1"], ["good", "poor"], None, "0=good,1=poor"),
        (["0", "1"], ["0", "1"], ["POSITIVE", "NEGATIVE"], None, "0=POSITIVE,1=NEGATIVE"),
        (["0", "1", "2"], ["0", "1", "2"], ["1", "2", "3"], None, "0=1,1=2,2=3"),
        (["0", "1", "2"], ["0", "1", "2"], STARS, None, "'0=1 star,1=2 stars,2=3 stars'"),
        (["1", "2", "3"], ["1", "2", "3"], STARS, None, "LABEL=CLASS"),
        (["1"], ["1"], ["negative", "positive"], None, "LABEL=CLASS"),
        (["0", "1"], ["0", "1"], ["negative", "neutral", "positive"], None, "LABEL=CLASS"),
        (["1", "2"], ["1", "2"], UNNAMED, None, "1=LABEL_0,2=LABEL_1"),
        (["great"], ["great", "bad"], ["negative", "positive"], None, "great"),
    ],
)
def test_labels_are_matched_by_one_rule_or_refused(labels, names, classes, rule, ids):
    if rule:
        words, found = evaluate.match(labels, names, False, classes)
        assert (words.split(",")[0], [found[label] for label in labels]) == (rule, ids)
    else:
        with pytest.raises(UserError, match="--label_map") as refused:
            evaluate.match(labels, names, False, classes)
        assert ids in str(refused.value)


def test_mapped_labels_are_names():
    classes, found = ["1", "2", "3"], {"1": 0, "2": 1, "3": 2}
    assert evaluate.match(["2", "1"], ["1", "2"], True, classes) == ("by name", found)
    with pytest.raises(UserError, match="LABEL=CLASS"):
        evaluate.match(["1", "0"], ["0", "1"], True, ["negative", "positive"])


def test_the_matching_is_printed_and_stored(tmp_path, trained, reviews, capsys):
    rows = [(text, int(label == "positive")) for text, label in tiny.reviews(20, seed=2)]
    path = tiny.write(tmp_path / "ids.csv", rows)
    call(trained, dataset_name=path, output_dir=tmp_path / "a")
    wanted = "by id, 0 = negative, 1 = positive"
    assert f"labels {wanted}" in capsys.readouterr().out
    assert tiny.read(tmp_path / "a", "metrics.json")["label_matching"] == wanted
    assert tiny.read(trained, "metrics.json")["label_matching"] == "by name"


def test_ids_that_contradict_the_names_need_a_label_map(tmp_path, trained, refusal, monkeypatch):
    monkeypatch.setattr(evaluate.device, "pick_precision", lambda: "no")  # that of `trained`
    swapped = with_classes(tmp_path / "m", trained, ["POSITIVE", "NEGATIVE"], order=(1, 0))
    rows = [(text, int(label == "positive")) for text, label in tiny.reviews(20, seed=2)]
    path = tiny.write(tmp_path / "ids.csv", rows)
    given = {"dataset_name": path, "output_dir": tmp_path / "a"}
    assert "--label_map 0=POSITIVE,1=NEGATIVE if" in refusal(
        evaluate.main, tiny.flags(model_name_or_path=swapped, **given)
    )
    call(swapped, **given, label_map="0=NEGATIVE,1=POSITIVE")
    found = tiny.read(tmp_path / "a", "metrics.json")["confusion_matrix"]
    assert [row[::-1] for row in found[::-1]] == tiny.read(trained, "metrics.json")[
        "confusion_matrix"
    ]


# --- Which reviews, and where the scores go


def test_a_file_has_the_splits_train_and_test_only(tmp_path, trained, reviews, refusal):
    for split in ("dev", "validation", "Test", "eval"):
        given = {"dataset_name": reviews / "test.csv", "split": split, "output_dir": tmp_path}
        line = refusal(evaluate.main, tiny.flags(model_name_or_path=trained, **given))
        assert f"--split {split}" in line
        assert "choose test" in line
    assert not any(tmp_path.iterdir())


def test_a_run_keeps_its_own_scores(copy, reviews, refusal, capfd):
    call(copy, plots=True, predictions=True)
    own = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    for given, name in (
        ({"dataset_name": reviews / "train.csv"}, "test"),
        ({"split": "train"}, "train"),
        ({"text_column": "label", "max_eval_samples": 0}, "test"),
        ({"label_map": "negative=positive,positive=negative"}, "test"),
    ):
        capfd.readouterr()
        call(copy, **given, plots=True, predictions=True)
        (there,) = (copy / "evaluations").glob(f"*/{name}")
        assert capfd.readouterr().out.endswith(f"written to {there}\n")
        assert tiny.read(there, "metrics.json")["reviews"] in (20, 41)
        assert {"README.md", "confusion.png", "predictions.csv"} <= set(
            path.name for path in there.iterdir()
        )
        line = refusal(evaluate.main, tiny.flags(model_name_or_path=copy, output_dir=copy, **given))
        assert f"--output_dir {copy}" in line
        assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == own
        shutil.rmtree(copy / "evaluations")
    call(copy, max_eval_samples=6)  # of its own split: the last evaluation counts
    assert tiny.read(copy, "metrics.json")["reviews"] == 6


def test_a_split_named_by_a_flag_is_scored(tmp_path, copy, reviews, refusal):
    own = (copy / "metrics.json").read_bytes()
    call(copy, test_split_name="train")
    assert (copy / "metrics.json").read_bytes() == own
    (scored,) = (copy / "evaluations").glob("*/test/metrics.json")
    assert '"reviews": 41' in scored.read_text()


def test_other_data_are_read_from_the_columns_of_training_if_they_are_there(
    tmp_path, distilbert, capsys
):
    rows = [("a", text, label) for text, label in tiny.reviews(20, seed=1)]
    path = tiny.write(tmp_path / "train.csv", rows, ["title", "body", "stars"])
    given = {"text_column": "title,body", "label_column": "stars", "num_train_epochs": 1}
    folder = tiny.train(distilbert, path, tmp_path / "run", **given)
    row = {"title": "a", "body": "b", "stars": "positive", "text": "c", "label": "negative"}
    for names, flags, read in (
        ("title body stars text label", {}, ("positive", "a b")),
        ("title body stars text label", {"text_column": "text"}, ("positive", "c")),
        ("title body stars text label", {"label_column": "label"}, ("negative", "a b")),
        ("title text stars", {}, ("positive", "c")),
        ("title body text label", {}, ("negative", "a b")),
        ("text label", {}, ("negative", "c")),
    ):
        chosen = names.split()
        other = tiny.write(tmp_path / "other.csv", [[row[name] for name in chosen]], chosen)
        call(folder, dataset_name=other, output_dir=tmp_path / "out", predictions=True, **flags)
        assert ("--label_column stars, as in training" in capsys.readouterr().out) == (
            "stars" in chosen and "label_column" not in flags
        )
        with open(tmp_path / "out" / "predictions.csv", encoding="utf-8-sig") as file:
            [found] = csv.DictReader(file)
        assert (found["label"], found["text"]) == read


def test_other_data_without_labels_are_not_scored(tmp_path, trained, distilbert, refusal):
    """Where -1 is a class, it is one."""
    texts = [text for text, _ in tiny.reviews(20, seed=1)]
    (tmp_path / "data").mkdir()
    tiny.write(tmp_path / "data" / "test.csv", [(text, -1) for text in texts])
    tiny.write(tmp_path / "signs.csv", [(text, i % 2 * 2 - 1) for i, text in enumerate(texts)])
    given = {"dataset_name": tmp_path / "data", "output_dir": tmp_path / "out"}
    line = refusal(evaluate.main, tiny.flags(model_name_or_path=trained, **given))
    assert "no review with a text and a label; its splits: test" in line
    signs = tiny.train(distilbert, tmp_path / "signs.csv", tmp_path / "run", num_train_epochs=1)
    call(signs, **given)
    assert tiny.read(tmp_path / "out", "metrics.json")["reviews"] == 20


def test_held_out_reviews_need_the_settings_of_training(tmp_path, distilbert, refusal):
    rows = [(text, text, label) for text, label in tiny.reviews(30, seed=3)]
    path = tiny.write(tmp_path / "train.csv", rows, ["text", "other", "label"])
    folder = tiny.train(distilbert, path, tmp_path / "run", num_train_epochs=1)
    for more in ({}, {"max_eval_samples": 0}):
        given = tiny.flags(model_name_or_path=folder, text_column="other", **more)
        assert "--text_column: not as in training" in refusal(evaluate.main, given)


def test_scores_of_another_model_do_not_replace_a_run_s(tmp_path, copy, trained, refusal):
    given = tiny.flags(model_name_or_path=trained, output_dir=copy)
    assert f"--output_dir {copy}" in refusal(evaluate.main, given)


def test_nothing_stale_stays_beside_new_scores(tmp_path, trained, reviews):
    for name in ("predictions.csv", "confusion.png"):
        (tmp_path / name).write_bytes(b"mine")
    call(trained, output_dir=tmp_path)  # no scores there before: these files are not ours
    assert (tmp_path / "predictions.csv").read_bytes() == b"mine"
    call(trained, output_dir=tmp_path, plots=True, predictions=True)
    (tmp_path / "mine.png").write_bytes(b"mine")
    call(trained, dataset_name=reviews / "train.csv", output_dir=tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"metrics.json", "README.md", "mine.png"}


def test_data_is_found_where_training_ran(tmp_path, distilbert, monkeypatch, refusal):
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    for folder in (there / "data", elsewhere):
        folder.mkdir(parents=True)
    path = tiny.write(there / "data" / "mine.csv", tiny.reviews(30, seed=3))
    monkeypatch.chdir(there)
    folder = tiny.train(distilbert, "data/mine.csv", tmp_path / "run", num_train_epochs=1)
    ended = tiny.read(folder, "metrics.json")
    monkeypatch.chdir(elsewhere)
    call(folder, baseline=True)
    found = tiny.read(folder, "metrics.json")
    assert (found["loss"], found["dataset"]) == (ended["loss"], "data/mine.csv")
    call(folder, max_eval_samples=0, output_dir=tmp_path / "all")
    assert tiny.read(tmp_path / "all", "metrics.json")["reviews"] == ended["reviews"]
    path.rename(tmp_path / "moved.csv")
    line = refusal(evaluate.main, tiny.flags(model_name_or_path=folder))
    assert str(path) in line
    assert "--dataset_name" in line
    call(folder, dataset_name=tmp_path / "moved.csv")
    (elsewhere / "data").mkdir()
    (tmp_path / "moved.csv").rename("data/mine.csv")  # the project was moved
    call(folder)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_changed_data_is_named_with_the_ways_on(tmp_path, distilbert, kind, refusal):
    (tmp_path / "data").mkdir()
    rows = tiny.reviews(30, seed=3)
    path = tiny.write(tmp_path / "data" / "train.csv", rows)
    if kind == "folder":
        tiny.write(tmp_path / "data" / "test.csv", tiny.reviews(10, seed=4))
    dataset = path if kind == "file" else tmp_path / "data"
    folder = tiny.train(distilbert, dataset, tmp_path / "run", num_train_epochs=1)
    changed = path if kind == "file" else tmp_path / "data" / "test.csv"
    tiny.write(changed, rows[:8])
    given = tiny.flags(model_name_or_path=folder, output_dir=tmp_path / "out")
    line = refusal(evaluate.main, given)
    way = ["--split", "train"] if kind == "file" else ["--max_eval_samples", "0"]
    assert ("10, now 8" if kind == "folder" else "changed since training (") in line
    assert " ".join(way) in line
    assert "--baseline" not in line
    before = (folder / "metrics.json").read_bytes()
    evaluate.main(tiny.flags(model_name_or_path=folder) + way)  # other data now
    assert (folder / "metrics.json").read_bytes() == before
    evaluate.main([*given, *way])
    assert tiny.read(tmp_path / "out", "metrics.json")["reviews"] == 8
    if kind == "folder":
        tiny.write(path, rows[1:])
        assert "drop --baseline" in refusal(evaluate.main, [*given, *way, "--baseline"])


# --- Two models


def test_two_models_are_compared_on_the_same_reviews(tmp_path, trained, reviews, capsys):
    """The other one has other names and another order, and its head is random."""
    other = with_classes(tmp_path / "other", trained, ["LABEL_0", "LABEL_1"])
    network = transformers.AutoModelForSequenceClassification.from_pretrained(other)
    torch.manual_seed(1)
    network.classifier.reset_parameters()
    network.save_pretrained(other)
    folder = tmp_path / "scored"
    call(trained, compare_to=other, baseline=True, output_dir=folder)
    scores, shown = tiny.read(folder, "metrics.json"), capsys.readouterr().out
    found = scores["compared_to"]["other"]

    def right(model):
        classify = transformers.pipeline("text-classification", model=str(model), device="cpu")
        names = {"LABEL_0": "negative", "LABEL_1": "positive"}
        answers = classify([text for text, _ in tiny.reviews(20, seed=2)])
        guesses = [names.get(answer["label"], answer["label"]) for answer in answers]
        return [guess == label for guess, (_, label) in zip(guesses, rows, strict=True)]

    rows = tiny.reviews(20, seed=2)
    first, second = right(trained), right(other)
    only = sum(a > b for a, b in zip(first, second, strict=True))
    only_other = sum(a < b for a, b in zip(first, second, strict=True))
    assert only + only_other > 0
    assert found["accuracy"] == sum(second) / 20
    assert found["difference"] == pytest.approx((only - only_other) / 20)
    assert found["disagreements"] == only + only_other  # of two classes
    limits = intervals.paired_difference(only, only_other, 20)
    assert found["difference_interval"] == pytest.approx(limits)
    line = next(line for line in shown.splitlines() if line.startswith("other "))
    assert f" {only + only_other} " in line
    assert f"{100 * found['difference']:+.1f} points" in line


def test_reviews_that_the_other_model_was_trained_on_are_counted(
    tmp_path, trained, distilbert, reviews, capsys
):
    """It was trained on 15 of the 20."""
    for name, rows in (("train", tiny.reviews(15, seed=2)), ("test", tiny.reviews(20, seed=2))):
        (tmp_path / name).mkdir()
        path = tiny.write(tmp_path / name / "train.csv", rows)
        tiny.write(tmp_path / name / "test.csv", tiny.reviews(10, seed=5))
    other = tiny.train(distilbert, tmp_path / "train", tmp_path / "other", num_train_epochs=1)
    given = {"dataset_name": path, "compare_to": other, "output_dir": tmp_path / "out"}
    call(trained, **given)
    assert "other was trained on 15 of them" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "train")
    call(trained, **given)
    assert "other was trained on an unknown number of them" in capsys.readouterr().out


def test_reviews_that_the_model_was_trained_on_are_counted(tmp_path, trained, reviews, capsys):
    def seen(name, **given):
        call(trained, output_dir=tmp_path / name, **given)
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if " was trained on " in line]

    rows = list(csv.DictReader((reviews / "train.csv").open(newline="")))
    path = tiny.write(tmp_path / "a.csv", [(row["text"], row["label"]) for row in rows[:7]])
    assert seen("a", dataset_name=path) == [f"{trained} was trained on 7 of them"]
    line = f"{trained} was trained on {len(rows)} of them"
    assert seen("b", dataset_name=reviews, split="train") == [line]
    path = tiny.write(tmp_path / "new.csv", tiny.reviews(10, seed=5))
    assert seen("c") == seen("d", dataset_name=path) == []


def test_both_f1s_are_of_the_same_classes(tmp_path, trained, reviews):
    """The other model gives a third class to some reviews; its F1 does not count."""
    names = ["negative", "neutral", "positive"]
    other = with_classes(tmp_path / "other", trained, names, order=(0, 1, 1))
    network = transformers.AutoModelForSequenceClassification.from_pretrained(other)
    torch.manual_seed(5)
    network.classifier.reset_parameters()
    network.save_pretrained(other)
    call(trained, compare_to=other, output_dir=tmp_path / "scored")
    found = tiny.read(tmp_path / "scored", "metrics.json")["compared_to"]["other"]
    rows = tiny.reviews(20, seed=2)
    classify = transformers.pipeline("text-classification", model=str(other), device="cpu")
    answers = [answer["label"] for answer in classify([text for text, _ in rows])]
    labels = [label for _, label in rows]
    pairs = list(zip(labels, answers, strict=True))
    assert set(answers) == set(names)
    f1 = 2 * pairs.count(("positive", "positive")) / (labels + answers).count("positive")
    assert found["f1"] == pytest.approx(f1)
    assert found["accuracy"] == sum(label == answer for label, answer in pairs) / 20


def test_predictions_of_swapped_classes_are_translated(tmp_path, trained, reviews):
    other = with_classes(tmp_path / "other", trained, ["Positive", "NEGATIVE"], order=(1, 0))
    call(trained, compare_to=other, output_dir=tmp_path / "scored")
    found = tiny.read(tmp_path / "scored", "metrics.json")["compared_to"]["other"]
    assert (found["difference"], found["disagreements"]) == (0.0, 0)


def test_another_model_that_does_not_fit_is_refused_before_any_work(tmp_path, trained, refusal):
    other = with_classes(tmp_path / "other", trained, ["good", "bad"])
    for name, named in ((other, "--label_map"), (tmp_path / "none", "none")):
        given = tiny.flags(model_name_or_path=trained, compare_to=name, output_dir=tmp_path / "o")
        assert named in refusal(evaluate.main, given)
    assert not (tmp_path / "o").exists()


# --- Files for people


def test_predictions_are_safe_in_a_spreadsheet(tmp_path, distilbert):
    starts = ["=1+1", "+1", "-5/10", "@cast", "\tx", "plain", "a=b", "'quoted'"]
    labels = ["=HYPERLINK(1)", "@SUM(A1)"]
    rows = [(f"{starts[i % 8]} superb film {i}", labels[i % 2]) for i in range(48)]
    path = tiny.write(tmp_path / "train.csv", rows)
    folder = tiny.train(distilbert, path, tmp_path / "run", num_train_epochs=1)
    call(folder, split="train", predictions=True, output_dir=tmp_path / "out")
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8-sig", newline="") as file:
        found = list(csv.DictReader(file))
    assert {row["label"] for row in found} == {"'=HYPERLINK(1)", "'@SUM(A1)"}
    texts = {int(row["row"]): row["text"] for row in found}
    for i, (text, _) in enumerate(rows):
        assert texts[i] == ("'" if i % 8 < 5 else "") + text


def test_a_card_with_names_that_are_not_utf_8_is_known_again(trained):
    run, scores = evaluate.Run.read(trained), tiny.read(trained, "metrics.json")
    run.settings["dataset_name"] = "caf\udce9.csv"
    text = card.model_card(run, scores)
    assert (
        card.merge(text, "license: new\n")
        == "license: other\nlicense_name: that-of-the-base-model\n"
    )


def test_names_in_the_card_are_text(trained):
    run, scores = evaluate.Run.read(trained), tiny.read(trained, "metrics.json")
    names = ["<b>bad</b>", "good|fine_*[x](y)"]
    text = card.model_card(run, {**scores, "labels": names, "split": "a_b<i>"})
    prose = [line for line in text.splitlines() if not line.startswith("    ")]
    assert "&lt;b&gt;bad&lt;/b&gt; or good\\|fine\\_\\*\\[x\\](y)." in text
    assert not [line for line in prose if "<b>" in line or "<i>" in line]


def test_an_address_on_the_hub_is_taken_for_the_model_s_id():
    for address in ("USER/REPO", "https://huggingface.co/USER/REPO", "https://hf.co/USER/REPO/"):
        args = evaluate.parse_args(["--hub_model_id", address])
        assert args.hub_model_id == "USER/REPO"


def test_the_next_command_can_be_pasted(tmp_path, distilbert, reviews, capsys):
    folder = tiny.train(distilbert, reviews, tmp_path / "my $run", num_train_epochs=1)
    line = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(line.removeprefix("next: python evaluate.py "))[-1] == str(folder)


# --- Plots


def confused(count):
    """Scores of `count` classes, of which the class i has i errors, all taken for the last one."""
    matrix = torch.diag(torch.full((count,), 50))
    matrix[: count - 1, -1] = torch.arange(count - 1)
    return {"labels": [f"class {i}" for i in range(count)], "confusion_matrix": matrix.tolist()}


def test_of_many_classes_the_most_confused_are_drawn():
    from sentiment.report import plots

    assert plots.shown(confused(5)) == list(range(5))
    assert plots.shown(confused(40)) == list(range(28, 40))


def test_missing_letters_are_named_in_one_line(tmp_path, capfd, monkeypatch):
    from sentiment.report import plots

    assert plots.choose_font(set("plain, café")) == set()
    assert capfd.readouterr().err == ""
    logits, labels = torch.eye(2).repeat(5, 1), [0, 1] * 5
    names = ["\U0010fffd", "\ufdd0"]  # no font has these
    scores = {**evaluate.metrics.score(logits, labels, names), "split": "test"}
    seen = []
    monkeypatch.setattr(plots, "confusion", lambda axes, scores, *_: seen.extend(scores["labels"]))
    plots.draw(tmp_path, scores, logits, labels, [])
    shown = capfd.readouterr().err
    assert (shown.count("\n"), seen) == (1, ["class 0", "class 1"])
    assert "\U0010fffd" in shown


def test_a_long_or_a_fortyfold_matrix_is_drawn(tmp_path):
    from sentiment.report import plots

    names = [f"{i} {'long ' * 60}" for i in range(40)]
    logits = torch.randn(400, 40, generator=torch.Generator().manual_seed(0))
    labels = [i % 40 for i in range(400)]
    scores = {**evaluate.metrics.score(logits, labels, names), "split": "test"}
    captions = plots.draw(tmp_path, scores, logits, labels, [])
    assert "12 of 40 classes" in captions["confusion.png"]
    assert "12 of 40" not in captions["reliability.png"]
