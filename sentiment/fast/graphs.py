"""Training passes as CUDA graphs: one launch each instead of a thousand."""

import torch


class Graphs:
    """`compute(inputs, targets)`; packed on a GPU, a graph for each shape.

    A shape's first pass runs as written, which loads kernels. The second is recorded, then repeated
    with other inputs and random numbers: the same bits.
    """

    def __init__(self, compute):
        self.compute = compute
        self.clear()

    def clear(self):
        self.graphs, self.pool = {}, None  # one runs at a time

    def __call__(self, inputs, targets):
        if "position_ids" not in inputs:  # padded, or on a CPU
            return self.compute(inputs, targets)
        layout = inputs["layout"]
        tensors = inputs["input_ids"], inputs["position_ids"], layout.starts, targets
        shape = tensors[0].shape[1], len(targets), layout.longest
        if shape not in self.graphs:
            self.graphs[shape] = None
            return self.compute(inputs, targets)
        if self.graphs[shape] is None:
            graph = torch.cuda.CUDAGraph()
            # NCCL's thread may call CUDA.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                result = self.compute(inputs, targets)
            self.graphs[shape], self.pool = (graph, tensors, result), graph.pool()
        graph, own, result = self.graphs[shape]
        for mine, new in zip(own, tensors, strict=True):
            mine.copy_(new)
        graph.replay()
        return result
