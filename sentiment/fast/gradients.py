"""All gradients in one tensor: one memset, one all-reduce, on a GPU one norm."""

import torch

from sentiment import distributed


class Gradients:
    """Gradients of `parameters`, which become views of `all`, float32 [P + 2].

    Behind them are `sums`: the loss and the number of ranks that stop.
    """

    def __init__(self, accelerator, parameters):
        sizes = [parameter.numel() for parameter in parameters]
        self.accelerator = accelerator
        self.all = torch.zeros(sum(sizes) + 2, device=accelerator.device)
        *self.views, self.sums = self.all.split([*sizes, 2])
        for parameter, view in zip(parameters, self.views, strict=True):
            parameter.grad = view.view_as(parameter)

    def reduce(self, stop, max_norm):
        """Sum over the ranks, and scale to at most `max_norm`, unless it is 0. Returns a tensor:
        loss, ranks that stop, norm before scaling.
        """
        self.sums[1].fill_(bool(stop))  # an assignment would wait for a GPU
        distributed.all_reduce_in_place(self.accelerator, self.all)
        self.accelerator.unscale_gradients()
        gradients = self.all[:-2]
        # A CPU adds one by one: a sum of 67 million squares in fp32 would be 0.5% off.
        parts = self.views if gradients.device.type == "cpu" else [gradients]
        norm = torch.nn.utils.get_total_norm(parts)
        if max_norm:
            gradients.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return torch.cat([self.sums, norm[None]])
