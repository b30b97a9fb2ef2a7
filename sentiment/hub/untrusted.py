"""Check a model's folder before a library reads it. Raises UserError.

The libraries run no code and read no pickle, but could run out of memory or time, leave the folder,
or ask a network.
"""

import json
import math
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForSequenceClassification

from sentiment.errors import UserError, first_line

WEIGHTS = "model.safetensors"
CONFIGS = ["config.json", "generation_config.json", "tokenizer_config.json"]
JSON = [*CONFIGS, "special_tokens_map.json", "added_tokens.json", "tokenizer.json", "vocab.json"]
REFUSED = ("adapter_config.json", "additional_chat_templates")  # a file and a folder
FILES = [*JSON, WEIGHTS, "vocab.txt", "merges.txt", REFUSED[0]]  # fetched from the Hub
SETTINGS = ["auto_map", "attn_implementation", "_attn_implementation", "experts_implementation"]
SETTINGS += ["quantization_config", "transformers_weights", "fast_tokenizer_files"]
HARMLESS = (None, "eager", "sdpa")  # values of any of these
MOST_BYTES, MOST_ITEMS = 40 * 2**20, 4_000_000  # of a JSON file; lists, dictionaries and commas
MOST_CLASSES, LARGEST = 10_000, 2**24  # integers in config.json


def check(folder):
    """Look at the files of a folder. Returns what `measure` does."""
    if not (folder / "config.json").exists():
        raise UserError("no config.json, which save_pretrained writes")
    check_links(folder)
    for file in REFUSED:
        if (folder / file).exists():
            raise UserError(f"{file} is not supported; merge an adapter into its model first")
    for file in JSON:
        pairs = read_json(folder / file) if (folder / file).exists() else ()
        for key, value in pairs if file in CONFIGS else ():
            if key in SETTINGS and value not in HARMLESS:
                raise UserError(f"{file}: {key} is not supported: it may load code or other files")
            most = MOST_CLASSES if key == "num_labels" else LARGEST
            if file == "config.json" and isinstance(value, int) and value > most:
                raise UserError(f"{file}: {key} {value:.6g} is too large")
    return measure(folder / WEIGHTS)


def check_links(folder):
    """No link may leave the folder, except to the Hub cache's blobs, and no file may be a pipe."""
    here = Path(os.path.realpath(folder))
    roots = [here]
    if here.parent.name == "snapshots":
        roots.append(here.parents[1] / "blobs")
    for path in sorted(path for path in folder.iterdir() if not path.is_dir()):
        if Path(os.path.realpath(path)).parent not in roots:
            raise UserError(f"{path.name} is a link out of the folder; put the file itself there")
        if path.exists() and not path.is_file():
            raise UserError(f"{path.name} is not a regular file")


def read_json(path):
    """Every (key, value) of all dictionaries in a JSON file."""
    small, pairs = path.stat().st_size <= MOST_BYTES, []
    content = path.read_bytes() if small else b""
    if not small or sum(map(content.count, (b"[", b"{", b","))) > MOST_ITEMS:
        raise UserError(f"{path.name} is implausibly large")
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=lambda new: pairs.extend(new) or dict(new))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path.name} is not a JSON object")
    return pairs


def measure(path):
    """(tensors, their elements) in the weights, by the header of their file."""
    if not path.is_file():
        raise UserError(f"no {path.name}; weights must be one safetensors file, not a pickle")
    try:
        with open(path, "rb") as file:
            if int.from_bytes(file.read(8), "little") > 10 * 2**20:
                raise SafetensorError("its header is too big")
        with safe_open(path, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path.name} is a bad safetensors file: {first_line(error)}") from error
    return len(shapes), sum(map(math.prod, shapes))


def check_size(config, tensors, elements):
    """Build the classifier on "meta"; raise if it far outgrows the weights."""
    seen = [0, 0]

    def count(module, name, parameter):
        if parameter is not None:
            seen[:] = seen[0] + 1, seen[1] + parameter.numel()
        if seen[0] > 2 * tensors + 100 or seen[1] > 2 * elements + 10**6:
            raise UserError(f"config.json describes far more than its {elements:,} weights")

    hook = torch.nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    finally:
        hook.remove()
