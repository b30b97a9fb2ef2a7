"""No test needs a network, or writes outside pytest's temporary folders and a cache folder for the
libraries. GPUs are hidden, except from `python -m pytest -m gpu`.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).parents[1])
)  # else `import evaluate` may find a library of that name

# Before the libraries are imported: nothing of the caller's settings, such as a token, a cache or a
# launcher.
for name in list(os.environ):
    if name.startswith(("HF_", "TRANSFORMERS_", "ACCELERATE_", "OMP_", "TORCHELASTIC_")):
        del os.environ[name]
CACHE = tempfile.TemporaryDirectory(prefix="tests-hf-home-")
os.environ.update(HF_HOME=CACHE.name, HF_HUB_OFFLINE="1")
os.environ["OMP_NUM_THREADS"] = (
    "1"  # enough for tiny models; several would wait for each other on a busy machine
)

import tiny  # noqa: E402  (it imports the libraries)
import torch  # noqa: E402


def pytest_configure(config):
    """Runs before CUDA starts: importing the libraries does not start it."""
    if re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        # Runs set it too late for a process that has multiplied matrices: torch reads it once.
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        # It tests CUDA kernels, which a CPU cannot run.
        pytest.skip("needs a GPU; other runs than `python -m pytest -m gpu` hide it")


@pytest.fixture(scope="session")
def distilbert(tmp_path_factory):
    """A masked language model that takes 64 tokens."""
    return tiny.save_model(tmp_path_factory.mktemp("distilbert"), "distilbert")


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A bare encoder that takes 64 tokens."""
    return tiny.save_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="session")
def roberta(tmp_path_factory):
    """A masked language model with 514 positions, of which RoBERTa uses 512."""
    return tiny.save_model(tmp_path_factory.mktemp("roberta"), "roberta")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    """A folder with train.csv (41 reviews: with batches of 8 a last one of 1) and test.csv (20)."""
    folder = tmp_path_factory.mktemp("reviews")
    tiny.write(folder / "train.csv", tiny.reviews(41, seed=1))
    tiny.write(folder / "test.csv", tiny.reviews(20, seed=2))
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, distilbert, reviews):
    """The folder of a finished run. Read it only."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    return tiny.train(
        distilbert, reviews, folder, learning_rate=3e-3, num_train_epochs=4, train_batch_size=8
    )


@pytest.fixture
def refusal(capfd):
    """A function that calls a script's main(argv), checks that it ends with `code` and one line,
    and returns that.
    """

    def call(main, argv, code=2):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in argv])
        error = capfd.readouterr().err.strip()
        assert stop.value.code == code, error
        assert len(error.splitlines()) == 1, error
        return error

    return call
