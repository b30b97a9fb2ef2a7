"""Model folders changed by an attacker or a bad disk: one change each
to a good one.
"""

import json
import os
import struct

import tiny
import torch
from safetensors.torch import load, save_file

CODE = "open({canary!r}, 'w').close()\n"


class Payload:
    """Its pickle creates a file when loaded."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


def edit(folder, file, **changes):
    (folder / file).write_text(json.dumps({**tiny.read(folder, file), **changes}))


def header(folder, length, content=b"{}"):
    """Weights that begin as a safetensors file whose header is `length` bytes."""
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + content)


def one_tensor(folder, **entry):
    """Weights whose header gives one tensor these fields, before 64 bytes of data."""
    content = json.dumps(
        {"distilbert.embeddings.word_embeddings.weight": {"dtype": "F32", **entry}}
    ).encode()
    header(folder, len(content), content + bytes(64))


def cut(folder, file, share=0.5):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(share * len(content))])


def code(folder, canary):
    for file in ("code.py", "modeling_x.py", "tokenization_x.py"):
        (folder / file).write_text(CODE.format(canary=str(canary)))


def own_model(folder, canary, **changes):
    code(folder, canary)
    own = {
        "AutoConfig": "code.X",
        "AutoModelForSequenceClassification": "code.X",
        "AutoTokenizer": ["code.X", "code.X"],
    }
    edit(folder, "config.json", auto_map=own, **changes)


def read_weights(folder):
    """Without a memory map: Windows neither removes nor replaces a mapped file."""
    return load((folder / "model.safetensors").read_bytes())


def pickled(folder, canary):
    tensors = read_weights(folder)
    torch.save({**tensors, "x": Payload(canary)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(folder, shard):
    """The weights renamed to `shard`, which the index file names."""
    tensors = read_weights(folder)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    os.replace(folder / "model.safetensors", folder / shard)


def linked(folder, file):
    """The file moved out of the folder and replaced by a link."""
    outside = folder.parent / f"{folder.name}-{file}"
    os.replace(folder / file, outside)
    (folder / file).symlink_to(outside)


def pipe(folder, file):
    (folder / file).unlink()
    os.mkfifo(folder / file)


def weights(folder, change):
    tensors = read_weights(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def tokens(folder, change):
    """`change` what tokenizer.json holds."""
    content = tiny.read(folder, "tokenizer.json")
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))


def nested(depth):
    return "[" * depth + "]" * depth


def renumber(content):
    content["model"]["vocab"]["film"] = 1_000_000


def strange_template(folder, canary):
    edit(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    tokens(
        folder,
        lambda content: content["post_processor"]["special_tokens"]["[CLS]"].update(
            ids=[1_000_000]
        ),
    )


# Each changes a folder of train.py's, of a DistilBERT; `canary` is a file that code, if it ran,
# would make.
FOLDERS = {
    "pickled weights": pickled,
    "pickle beside torn weights": lambda f, c: (pickled(f, c), header(f, 100)),
    "auto_map, known type": own_model,
    "auto_map, unknown type": lambda f, c: own_model(f, c, model_type="x"),
    "tokenizer code": lambda f, c: (
        code(f, c),
        edit(f, "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.X"]}),
    ),
    "adapter": lambda f, c: (f / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "some/where"}'
    ),
    "kernel": lambda f, c: edit(f, "config.json", attn_implementation="some/kernel"),
    "quantised": lambda f, c: edit(
        f, "config.json", quantization_config={"quant_method": "bitsandbytes"}
    ),
    "weights elsewhere": lambda f, c: edit(
        f, "config.json", transformers_weights="../x.safetensors"
    ),
    "tokenizer elsewhere": lambda f, c: edit(
        f, "tokenizer_config.json", fast_tokenizer_files=["../x.json"]
    ),
    "header of 2^62 bytes": lambda f, c: header(f, 2**62),
    "header of 2^64 - 1 bytes": lambda f, c: header(f, 2**64 - 1),
    "header of no JSON": lambda f, c: header(f, 8, bytes(8)),
    "empty weights": lambda f, c: (f / "model.safetensors").write_bytes(b""),
    "tensor of 2^62 numbers": lambda f, c: one_tensor(
        f, shape=[2**31, 2**31], data_offsets=[0, 64]
    ),
    "tensor past the end": lambda f, c: one_tensor(f, shape=[2**30], data_offsets=[0, 2**32]),
    "negative tensor": lambda f, c: one_tensor(f, shape=[-4, -4], data_offsets=[0, 64]),
    "bomb: words": lambda f, c: edit(f, "config.json", vocab_size=10**12),
    "bomb: words, smaller": lambda f, c: edit(f, "config.json", vocab_size=10**7),
    "bomb: width": lambda f, c: edit(f, "config.json", dim=2**20, n_heads=2),
    "bomb: layers": lambda f, c: edit(f, "config.json", n_layers=2**23),
    "bomb: positions": lambda f, c: edit(f, "config.json", max_position_embeddings=2**24),
    "bomb: classes": lambda f, c: edit(f, "config.json", num_labels=10**9, id2label=None),
    "torn weights": lambda f, c: cut(f, "model.safetensors"),
    "torn config": lambda f, c: cut(f, "config.json"),
    "torn tokenizer": lambda f, c: cut(f, "tokenizer.json"),
    "torn tokenizer config": lambda f, c: cut(f, "tokenizer_config.json"),
    "config is no JSON": lambda f, c: (f / "config.json").write_bytes(b"\x80\x04K\x01."),
    "config is a list": lambda f, c: (f / "config.json").write_text("[1]"),
    "config is nested": lambda f, c: (f / "config.json").write_text('{"x": ' + nested(10**5) + "}"),
    "config of wrong types": lambda f, c: edit(
        f, "config.json", dim="x", n_layers=None, n_heads=[2]
    ),
    "config of 100 MB": lambda f, c: edit(f, "config.json", x="x" * 10**8),
    "type is no string": lambda f, c: edit(f, "config.json", model_type=["distilbert"]),
    "no tuples": lambda f, c: edit(f, "config.json", return_dict=False),
    "path in the shard index": lambda f, c: sharded(f, "../outside.safetensors"),
    "no shards": lambda f, c: (
        sharded(f, "model-1.safetensors"),
        (f / "model-1.safetensors").unlink(),
    ),
    "shard index of wrong types": lambda f, c: (
        sharded(f, "m.safetensors"),
        (f / "model.safetensors.index.json").write_text('{"weight_map": [1]}'),
    ),
    "link to weights": lambda f, c: linked(f, "model.safetensors"),
    "link to a config": lambda f, c: linked(f, "config.json"),
    "link to a tokenizer": lambda f, c: linked(f, "tokenizer.json"),
    "link for metrics": lambda f, c: (f / ".tmp-metrics.json").symlink_to(c),
    "pipe for a config": lambda f, c: pipe(f, "config.json"),
    "pipe for weights": lambda f, c: pipe(f, "model.safetensors"),
    "fewer layers than weights": lambda f, c: edit(f, "config.json", n_layers=1),
    "more layers than weights": lambda f, c: edit(f, "config.json", n_layers=3),
    "another width": lambda f, c: edit(f, "config.json", dim=64),
    "infinite weights": lambda f, c: weights(
        f, lambda t: [x.fill_(float("inf")) for x in t.values()]
    ),
    "another model's weights": lambda f, c: weights(
        f, lambda t: [t.pop(k) for k in list(t) if "layer.0" in k]
    ),
    "tokenizer is a list": lambda f, c: (f / "tokenizer.json").write_text("[1]"),
    "tokenizer is nested": lambda f, c: (f / "tokenizer.json").write_text(
        '{"x": ' + nested(900) + "}"
    ),
    "tokenizer of 100 MB": lambda f, c: (f / "tokenizer.json").write_bytes(bytes(10**8)),
    "tokenizer of lists": lambda f, c: (f / "tokenizer.json").write_text(
        '{"x": [' + "[]," * 10**7 + "[]]}"
    ),
    "tokenizer that panics": lambda f, c: tokens(
        f, lambda t: t["post_processor"].update(special_tokens={})
    ),
    "tokenizer of wrong types": lambda f, c: tokens(f, lambda t: t["model"].update(vocab=[1, 2])),
    "tokens beyond the model": lambda f, c: tokens(f, renumber),
    "special tokens beyond the model": strange_template,
    "length is no number": lambda f, c: edit(f, "tokenizer_config.json", model_max_length="x"),
    "length of nothing": lambda f, c: edit(f, "tokenizer_config.json", model_max_length=0),
}
