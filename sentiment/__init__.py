"""The core: all that affects results. Read train.py first; it shows how the parts fit together.

    data, labels        files -> reviews and their classes
    model, batches      texts -> tokens -> global batches, shares, micro-batches
    inference           micro-batches -> logits
    metrics, intervals  logits -> scores, and how far to trust them
    distributed         several processes, one result
    run, checkpoint     the record of a run, and how it resumes

Four subpackages, which you can skip, hold the rest: fast, hub, report, runtime.
"""
