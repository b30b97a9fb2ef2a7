"""All gradients in one tensor: one memset, one all-reduce, on a GPU one norm."""

import torch

from sentiment import distributed


class Gradients:
    """Gradients of `parameters`, as views of `all`: float32 [P + 2], which ends with `sums`, the
    loss and how many ranks stop. On a lone CPU `all` is `sums`.
    """

    def __init__(self, accelerator, parameters):
        self.accelerator, self.parameters = accelerator, parameters
        # Then backward makes new ones: 1% faster, 0.2 GB less.
        self.alone = accelerator.device.type == "cpu" and accelerator.num_processes == 1
        sizes = [] if self.alone else [parameter.numel() for parameter in parameters]
        self.all = torch.zeros(sum(sizes) + 2, device=accelerator.device)
        *views, self.sums = self.all.split([*sizes, 2])
        for parameter, view in zip(parameters, views, strict=False):
            parameter.grad = view.view_as(parameter)

    def clear(self):
        self.all.zero_()
        if self.alone:
            for parameter in self.parameters:
                parameter.grad = None

    def reduce(self, stop, max_norm):
        """Sum over the ranks, and scale to at most `max_norm`, unless it is 0. Returns a tensor:
        loss, ranks that stop, norm before scaling.
        """
        self.sums[1].fill_(bool(stop))  # an assignment would wait for a GPU
        distributed.all_reduce(self.accelerator, self.all)
        self.accelerator.unscale_gradients()
        if self.all.device.type == "cpu":  # one sum of 67 million squares is 0.5% off
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            parts = [parameter.grad for parameter in self.parameters]
        else:
            parts = [self.all[:-2]]
        norm = torch.nn.utils.get_total_norm(parts)
        if max_norm:
            for part in parts:
                part.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return torch.cat([self.sums, norm[None]])
