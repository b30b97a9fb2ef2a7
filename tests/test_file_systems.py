"""Network file systems, whose locks fail, and other unusual places."""

import errno
import os
import shutil

import pytest
import tiny

WITHOUT_LOCKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Fails with the number in ERRNO for files in the folder UNDER, as a library that is preloaded. */
int flock(int file, int operation) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    const char *under = getenv("UNDER");
    if (length >= (ssize_t)strlen(under) && !strncmp(path, under, strlen(under))) {
        errno = atoi(getenv("ERRNO"));
        return -1;
    }
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, operation);
}
"""
SHORT = {"num_train_epochs": 1, "mixed_precision": "no"}


@pytest.fixture(scope="module")
def train(tmp_path_factory, distilbert, reviews):
    """train(cache, output_dir, error, under): run train.py where locks fail with an error."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler, to build a library that makes locks fail")
    folder = tmp_path_factory.mktemp("preloaded")
    (folder / "flock.c").write_text(WITHOUT_LOCKS)
    built = folder / "flock.so"
    argv = [compiler, "-shared", "-fPIC", "-o", built, folder / "flock.c", "-ldl"]
    done = tiny.process(*argv)
    assert done.returncode == 0, done.stderr

    def run(cache, output_dir, error, under):
        given = {"model_name_or_path": distilbert, "dataset_name": reviews, **SHORT}
        env = {"LD_PRELOAD": str(built), "ERRNO": str(error), "UNDER": str(under)}
        argv = tiny.flags(**given, output_dir=output_dir)
        return tiny.script("train", *argv, env={**env, "HF_HOME": str(cache)})

    return run


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_run_folder_without_locks_is_used_and_a_cache_is_refused(train, tmp_path, error):
    done = train(tmp_path / "cache", tmp_path / "run", error, under=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"{tmp_path / 'run'} has no locks: start no second run there\n"
    assert tiny.read(tmp_path / "run", "status.json")["status"] == "finished"

    done = train(tmp_path / "cache", tmp_path / "other", error, under=tmp_path / "cache")
    reason = f"the cache {tmp_path / 'cache' / 'datasets'} cannot be written or locked"
    way = "set HF_HOME to another folder"
    assert done.stderr == f"train.py: error: {reason} ({os.strerror(error)}); {way}\n"
    assert done.returncode == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_filelock_itself_replaces_locks_that_do_not_exist(train, tmp_path):
    done = train(tmp_path / "cache", tmp_path / "run", errno.ENOSYS, under=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tiny.read(tmp_path / "run", "status.json")["status"] == "finished"
