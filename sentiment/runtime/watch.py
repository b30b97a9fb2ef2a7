"""Ends a job whose ranks wait for one that lives but does not go on, such as a paused one."""

import os
import sys
import time
from contextlib import contextmanager
from threading import Event, Thread

from torch.distributed import PrefixStore, distributed_c10d

from sentiment import distributed
from sentiment.runtime.folder import write_status


@contextmanager
def progress(accelerator, run, log):
    """Within the block, end this process once no rank has gone on for --ddp_timeout seconds."""
    over, ranks = Event(), list(map(str, range(accelerator.num_processes)))
    if len(ranks) > 1:
        store = distributed_c10d._get_default_store().clone()  # a connection of its own
        given = PrefixStore("watch", store), ranks, accelerator.process_index, run, log, over
        Thread(target=watch, args=given, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def watch(store, ranks, rank, run, log, over):
    """Compare what the ranks have begun: those that wait have begun one collective more."""
    limit, seen, since = run.settings["ddp_timeout"], [], time.monotonic()
    while time.monotonic() - since < limit:
        try:
            store.set(ranks[rank], "{collectives} {passes}".format_map(distributed.begun))
            now = store.multi_get(ranks)  # the first time, this waits for all
        except RuntimeError:  # the store's process is gone: the main thread will notice
            return
        if now != seen:
            seen, since = now, time.monotonic()
        if over.wait(limit / 60):
            return
    collectives = [int(each.split()[0]) for each in seen]
    late = collectives.index(min(collectives))
    if rank == collectives.index(max(collectives)):  # one that waits
        who = f"process {late}" if rank != late else "all processes"
        reason = f"{who} made no progress for {limit:g} s after step {log.at}; see --ddp_timeout"
        print(f"train.py: error: {reason}", file=sys.stderr, flush=True)
        write_status(run.folder, "failed", reason=reason)
    else:
        time.sleep(limit / 10)  # lest that one reports this exit
    os._exit(1)  # the main thread waits in a library
