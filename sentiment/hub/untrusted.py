"""Check a model's folder before a library reads it. Raises UserError.

The libraries run no code and read no pickle, but could exhaust memory, leave the folder, or ask a
network.
"""

import json
import math

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForSequenceClassification

from sentiment.errors import UserError, first_line

WEIGHTS = "model.safetensors"
CONFIGS = ["config.json", "generation_config.json", "tokenizer_config.json"]
JSON = [*CONFIGS, "special_tokens_map.json", "added_tokens.json", "tokenizer.json", "vocab.json"]
REFUSED = ["adapter_config.json", "additional_chat_templates"]
TOKENIZERS = ["tokenizer.json", "vocab.txt", "vocab.json"]  # one of them is needed
FILES = [*JSON, *REFUSED, WEIGHTS, "vocab.txt", "merges.txt"]  # fetched from the Hub
CONVERT = (
    "if you trust it, load it with transformers (and sentencepiece) and save_pretrained "
    "writes that file; on the Hub, --revision refs/pr/N may have it"
)
SETTINGS = ["auto_map", "attn_implementation", "_attn_implementation", "experts_implementation"]
SETTINGS += ["quantization_config", "transformers_weights", "fast_tokenizer_files"]
HARMLESS = (None, "eager", "sdpa")  # values of any of these
MOST_BYTES, MOST_ITEMS = 40 * 2**20, 4_000_000  # of a JSON file; lists, dictionaries and commas
MOST_CLASSES, LARGEST = 10_000, 2**24  # integers in config.json


def check(folder):
    """Check a folder's files. Returns what `measure` does."""
    if not (folder / "config.json").exists():
        killed = (folder / "status.json").exists()
        way = "; train.py --resume finishes this run" if killed else ""
        raise UserError(f"no config.json, which save_pretrained writes{way}")
    check_links(folder)
    for file in REFUSED:
        if (folder / file).exists():
            raise UserError(f"{file} is not supported; merge an adapter into its model first")
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise UserError(f"no tokenizer.json; {CONVERT}")
    try:
        for file in JSON:
            if (folder / file).exists():
                check_json(folder / file)
        file = WEIGHTS
        return measure(folder / file)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: {first_line(error)}") from error


def check_links(folder):
    """No link may leave the folder, except to the Hub cache's blobs, and no file may be a pipe."""
    here = folder.resolve()
    blobs = [here.parents[1] / "blobs"] if here.parent.name == "snapshots" else []
    for path in sorted(path for path in folder.iterdir() if not path.is_dir()):
        inside = path.resolve().parent in [here, *blobs]
        if not inside or (path.exists() and not path.is_file()):
            raise UserError(f"{path.name} is a pipe or leads out of the folder; put a file there")


def check_json(path):
    """ValueError: not a JSON object of plausible size, or, in CONFIGS, a harmful setting."""
    small = path.stat().st_size <= MOST_BYTES
    content = path.read_bytes() if small else b""
    if not small or sum(map(content.count, (b"[", b"{", b","))) > MOST_ITEMS:
        raise ValueError("implausibly large")

    def check_settings(pairs):  # of any dictionary
        for key, value in pairs:
            if path.name in CONFIGS and key in SETTINGS and value not in HARMLESS:
                raise ValueError(f"{key} is not supported: it may load code or other files")
            most = MOST_CLASSES if key == "num_labels" else LARGEST
            if path.name == "config.json" and isinstance(value, int) and value > most:
                raise ValueError(f"{key} {value:.6g} is too large")
        return dict(pairs)

    if not isinstance(json.loads(content.decode(), object_pairs_hook=check_settings), dict):
        raise ValueError("not a JSON object")


def measure(path):
    """(tensors, their elements) by the header of the weights. ValueError, SafetensorError."""
    if not path.is_file():
        raise UserError(f"no {path.name}, and pickles are never read; {CONVERT}")
    with open(path, "rb") as file:
        if int.from_bytes(file.read(8), "little") > 10 * 2**20:
            raise ValueError("its header is too big")
    with safe_open(path, "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.offset_keys()]
    return len(shapes), sum(map(math.prod, shapes))


def check_size(config, tensors, elements):
    """Build the classifier on "meta"; raise if it far outgrows the weights."""
    left = [2 * tensors + 100, 2 * elements + 10**6]

    def count(module, name, parameter):
        left[:] = left[0] - 1, left[1] - parameter.numel()
        if min(left) < 0:
            raise UserError(f"config.json describes far more than its {elements:,} weights")

    hook = torch.nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    finally:
        hook.remove()
