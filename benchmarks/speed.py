"""Speed and memory compared with an Accelerate loop, Trainer and pipeline(), on generated files.

    python benchmarks/speed.py                          DistilBERT's shape, training and prediction
    python benchmarks/speed.py --shape minilm --rounds 5

Prediction is also compared with ONNX Runtime (packages onnxruntime, onnx, onnxscript) and OpenVINO
(openvino, nncf), if they are installed. NVIDIA GPUs are measured by gpu.py.

Contestants alternate, each in its own process, because machines are shared and noisy; the table
gives medians over the rounds. Weights are random. Texts are as long as IMDb reviews (log-normal,
median 215 tokens, truncated at 512). A training process makes --steps steps of 16 reviews; the
first two do not count, and neither do loading, scoring and saving.
"""

import argparse
import importlib.util
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sentiment.runtime import device  # noqa: E402  (the project's own folder comes first)

SHAPES = {  # hidden size, layers, heads, feed-forward size
    "distilbert": (768, 6, 12, 3072),
    "minilm": (384, 6, 12, 1536),
    "tiny": (64, 2, 2, 128),
}
BATCH, MAX_LENGTH, WARM_UP = 16, 512, 2
VOCABULARY = 30522
PRECISIONS = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}
PEERS = {"ONNX Runtime": ("onnxruntime", "onnxscript"), "OpenVINO": ("openvino", "nncf")}


def make_files(folder, shape, steps):
    """A model without and one with attention dropout, a training and a test split, and texts to
    predict.
    """
    width, blocks, heads, inner = SHAPES[shape]
    words = [f"w{i}" for i in range(VOCABULARY - 5)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = transformers.DistilBertTokenizer({piece: i for i, piece in enumerate(pieces)})
    tokenizer.model_max_length = MAX_LENGTH
    for name, dropout in (("without", 0.0), ("with", 0.1)):
        torch.manual_seed(0)
        size = {
            "dim": width,
            "n_layers": blocks,
            "n_heads": heads,
            "hidden_dim": inner,
            "vocab_size": VOCABULARY,
        }
        config = transformers.DistilBertConfig(**size, attention_dropout=dropout)
        transformers.DistilBertForSequenceClassification(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rng = random.Random(0)
    (folder / "reviews").mkdir()
    for split, count in (("train", BATCH * steps), ("test", 4)):
        with open(folder / "reviews" / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for i in range(count):
                length = min(MAX_LENGTH - 2, max(8, round(rng.lognormvariate(math.log(215), 0.75))))
                text = " ".join(rng.choices(words, k=length))
                file.write(json.dumps({"text": text, "label": i % 2}) + "\n")


def linear_parameters(shape):
    """Parameters of the encoder's linear layers, which define useful floating-point operations."""
    width, blocks, _, inner = SHAPES[shape]
    return blocks * (4 * width * width + 2 * width * inner)


def matrix_product_peak(precision):
    """FLOP/s of a large matrix product on this machine: the best of several."""
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = 2048 if device.pick_device().type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device.pick_device(), dtype=dtype) for _ in "ab")
    rates = []
    for _ in range(10):
        started = time.perf_counter()
        (a @ b)[0, 0].item()
        rates.append(2 * size**3 / (time.perf_counter() - started))
    return max(rates)


# --- The contestants in training; each returns [(real tokens, seconds)], one for every step


def plain_loop(model, folder, batch_size=BATCH, limit=math.inf):
    """Like the example scripts: fp32, random batches, padding to the longest of the batch.

    limit: seconds after which no more steps are run.
    """
    from accelerate import Accelerator
    from datasets import load_dataset

    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    data = load_dataset("json", data_files=str(folder / "train.jsonl"), split="train")
    data = data.map(
        lambda rows: tokenizer(rows["text"], truncation=True), batched=True, remove_columns=["text"]
    )
    data = data.rename_column("label", "labels")
    collate = transformers.DataCollatorWithPadding(tokenizer)
    loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=5e-5)
    classifier, optimizer, loader = accelerator.prepare(classifier, optimizer, loader)
    classifier.train()
    times, started = [], time.perf_counter()
    for batch in loader:
        loss = classifier(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        now = time.perf_counter()
        times.append((int(batch["attention_mask"].sum()), now - started))
        started = now
        if sum(seconds for _, seconds in times) > limit:
            break
    return times


def trainer(model, folder, batch_size=BATCH, limit=math.inf):
    """Trainer with its best flags: bf16 or fp16, batches grouped by length, fused AdamW."""
    from datasets import load_dataset

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    data = load_dataset("json", data_files=str(folder / "train.jsonl"), split="train")
    data = data.map(
        lambda rows: tokenizer(rows["text"], truncation=True), batched=True, remove_columns=["text"]
    )
    times, tokens = [], []

    class Collator(transformers.DataCollatorWithPadding):
        def __call__(self, rows):
            tokens.append(sum(len(row["input_ids"]) for row in rows))
            return super().__call__(rows)

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.started = time.perf_counter()

        def on_step_end(self, _, __, control, **___):
            now = time.perf_counter()
            times.append((tokens[len(times)], now - self.started))
            self.started = now
            if sum(seconds for _, seconds in times) > limit:
                control.should_training_stop = True

    precision = device.pick_precision()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = transformers.TrainingArguments(
            scratch,
            num_train_epochs=1,
            per_device_train_batch_size=batch_size,
            use_cpu=device.pick_device().type == "cpu",
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            train_sampling_strategy="group_by_length",
            optim="adamw_torch_fused",
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
        )
        transformers.Trainer(
            classifier,
            arguments,
            data_collator=Collator(tokenizer),
            train_dataset=data,
            callbacks=[Clock()],
        ).train()
    return times


def ours(model, folder):
    """train.py with its defaults, timed by its log."""
    with tempfile.TemporaryDirectory() as output:
        argv = ["--model_name_or_path", model, "--dataset_name", folder, "--output_dir", output]
        argv += ["--max_train_samples", 0, "--num_train_epochs", 1, "--train_batch_size", BATCH]
        subprocess.run(
            [sys.executable, ROOT / "train.py", *map(str, argv)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        entries = [json.loads(line) for line in Path(output, "log.jsonl").read_text().splitlines()]
    return [(entry["tokens"], entry["seconds"]) for entry in entries if "loss" in entry]


# --- The contestants in prediction; each returns [(texts, seconds)] of its answers, without loading


def pipeline(model, folder, batch_size, precision):
    """pipeline() on all texts at once."""
    texts = [json.loads(line)["text"] for line in (folder / "train.jsonl").read_text().splitlines()]
    dtype = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]
    classify = transformers.pipeline("text-classification", model=str(model), dtype=dtype)
    classify(texts[:2], truncation=True)
    started = time.perf_counter()
    classify(texts, batch_size=batch_size, truncation=True)
    return [(len(texts), time.perf_counter() - started)]


def predict(model, folder, *flags):
    """predict.py on standard input: the time for all texts minus the time for one."""
    texts = [json.loads(line)["text"] for line in (folder / "train.jsonl").read_text().splitlines()]
    seconds = []
    for chosen in (texts[:1], texts):
        started = time.perf_counter()
        argv = [sys.executable, ROOT / "predict.py", "--model_name_or_path", str(model), *flags]
        subprocess.run(
            argv, input="\n".join(chosen), text=True, check=True, stdout=subprocess.DEVNULL
        )
        seconds.append(time.perf_counter() - started)
    return [(len(texts) - 1, seconds[1] - seconds[0])]


def peer(model, folder, runtime, precision):
    """ONNX Runtime or OpenVINO on batches of texts of similar length. Exporting does not count."""
    texts = [json.loads(line)["text"] for line in (folder / "train.jsonl").read_text().splitlines()]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()

    def by_length(texts, size=8):
        ids = sorted(tokenizer(texts, truncation=True)["input_ids"], key=len)
        parts = (ids[start : start + size] for start in range(0, len(ids), size))
        return [dict(tokenizer.pad({"input_ids": part}, return_tensors="np")) for part in parts]

    export = {"ONNX Runtime": onnx_session, "OpenVINO": openvino_model}[runtime]
    classify = export(classifier, by_length(texts[:64]), precision)
    for batch in by_length(texts):  # plans are made for each shape
        classify(batch)
    started = time.perf_counter()
    for batch in by_length(texts):
        classify(batch)
    return [(len(texts), time.perf_counter() - started)]


def onnx_session(classifier, examples, precision):
    """A function of a batch. precision: "fp32", or "int8" with scales found as it computes."""
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    inputs = {name: torch.from_numpy(values) for name, values in examples[0].items()}
    shapes = {name: {0: "reviews", 1: "tokens"} for name in inputs}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        torch.onnx.export(classifier, (), path, kwargs=inputs, dynamic_shapes=shapes, dynamo=True)
        if precision == "int8":
            quantize_dynamic(path, path := f"{folder}/int8.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, batch)


def openvino_model(classifier, examples, precision):
    """A function of a batch. precision: "fp32", "bf16", or "int8" calibrated on `examples`."""
    import nncf
    import openvino

    inputs = {name: torch.from_numpy(values) for name, values in examples[0].items()}
    converted = openvino.convert_model(classifier, example_input=inputs)
    if precision == "int8":
        kind = nncf.ModelType.TRANSFORMER
        converted = nncf.quantize(converted, nncf.Dataset(examples), model_type=kind)
    rest = "f32" if precision == "fp32" or device.pick_precision() == "no" else "bf16"
    return openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": rest})


TRAINING = {"plain loop": plain_loop, "Trainer, best flags": trainer, "train.py": ours}


def contest(contestants, folder, rounds):
    """Run each of {name: argv} in a process of its own, in turns; {name: [(units, seconds, peak
    bytes), ...]}.
    """
    results = {name: [] for name in contestants}
    for number in range(rounds):
        for name, argv in contestants.items():
            done = subprocess.run(
                [sys.executable, __file__, "--folder", folder, "--contestant", *argv],
                capture_output=True,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr}")
            units, seconds, peak = json.loads(done.stdout.splitlines()[-1])
            results[name].append((units, seconds, peak))
            print(
                f"round {number + 1}: {name}: {units / seconds:,.1f}/s", file=sys.stderr, flush=True
            )
    return results


def run_contestant(folder, name, attention, *more):
    """In its own process: print [units, seconds, peak bytes] of one contestant."""
    device.set_up(device.pick_device())
    model, reviews = folder / attention, folder / "reviews"
    if name == "pipeline":
        times = pipeline(model, reviews, int(more[0]), more[1])
    elif name in PEERS:
        times = peer(model, reviews, name, *more)
    elif name == "predict.py":
        times = predict(model, reviews, *more)
    else:
        times = TRAINING[name](model, reviews)[WARM_UP:]
    who = resource.RUSAGE_CHILDREN if name.endswith(".py") else resource.RUSAGE_SELF
    peak = resource.getrusage(who).ru_maxrss * 1024
    print(json.dumps([sum(n for n, _ in times), sum(s for _, s in times), peak]))


def rate(results):
    return statistics.median(units / seconds for units, seconds, _ in results)


def print_training(results, shape, precision):
    peak, name = matrix_product_peak(precision), PRECISIONS[precision]
    print(
        f"| training, {shape}'s shape | real tokens/s | ratio | useful GFLOP/s | of {name} peak | "
        "memory, GB |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    slowest = rate(next(iter(results.values())))
    for contestant, rows in results.items():
        useful = 6 * linear_parameters(shape) * rate(rows)
        memory = statistics.median(bytes for *_, bytes in rows) / 1e9
        figures = f"{rate(rows):,.0f} | {rate(rows) / slowest:.1f}"
        figures += f" | {useful / 1e9:,.0f} | {useful / peak:.0%}"
        print(f"| {contestant} | {figures} | {memory:.1f} |")
    print(f"\nPeak {name} matmul throughput: {peak / 1e9:,.0f} GFLOP/s\n")


def print_prediction(results, shape):
    print(f"| prediction, {shape}'s shape | texts/s | ratio |")
    print("| --- | --- | --- |")
    slowest = rate(next(iter(results.values())))
    for name, rows in results.items():
        print(f"| {name} | {rate(rows):,.1f} | {rate(rows) / slowest:.1f} |")


def draw(path, results, title):
    """A bar for each contestant, with its real tokens per second."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    colors = ["tab:blue" if name.startswith("train.py") else "#999999" for name in results]
    bars = axes.barh(list(results), [rate(rows) for rows in results.values()], color=colors)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="real tokens per second")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="distilbert")
    parser.add_argument(
        "--steps", type=int, default=8, help="per training process, with two steps of warm-up"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["training", "prediction"])
    parser.add_argument("--plot", type=Path, help="draw the training speeds into this PNG")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contestant", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        run_contestant(args.folder, *args.contestant)
        return
    if device.pick_device().type == "cuda":
        parser.exit(2, "speed.py: error: use gpu.py, or hide the GPU with CUDA_VISIBLE_DEVICES=\n")
    device.set_up(device.pick_device())
    precision = device.pick_precision()
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), args.shape, args.steps)
        machine = f"{device.describe()}, {torch.get_num_threads()} threads, {PRECISIONS[precision]}"
        print(f"{machine}, torch {torch.__version__}\n")
        if args.only != "prediction":
            contestants = {
                f"{name}, {attention} attention dropout": [name, attention]
                for attention in ("with", "without")
                for name in TRAINING
            }
            results = contest(contestants, folder, args.rounds)
            print_training(results, args.shape, precision)
            if args.plot:
                draw(
                    args.plot,
                    results,
                    f"Training, {args.shape} shape, {machine} (plain loop: fp32)",
                )
        if args.only != "training":
            contestants = {"pipeline()": ["pipeline", "without", "1", "no"]}
            for batch_size in ("1", "8", "32"):
                argv = ["pipeline", "without", batch_size, precision]
                if (
                    argv not in contestants.values()
                ):  # in fp32 the first is what pipeline() does as it comes
                    contestants[f"pipeline(), {PRECISIONS[precision]}, batches of {batch_size}"] = (
                        argv
                    )
            for name, packages in PEERS.items():
                there = all(map(importlib.util.find_spec, packages))
                bf16 = [precision] * (name == "OpenVINO" and precision == "bf16")
                for kind in ["fp32", *bf16, "int8"] if there else []:
                    contestants[f"{name}, {kind}"] = [name, "without", kind]
            contestants["predict.py"] = ["predict.py", "without"]
            if torch.cpu.get_capabilities().get("avx2"):
                contestants["predict.py --int8"] = ["predict.py", "without", "--int8"]
            print_prediction(contest(contestants, folder, args.rounds), args.shape)


if __name__ == "__main__":
    main()
