"""Linear layers in 8 bits, for predict.py --int8.

Each token has its own scale, so a result does not depend on the rest of the pass. Weights have 7
bits: AVX2 adds pairs of products in 16 bits, which 8-bit weights could overflow.
"""

import torch

TOKENS = 256  # at once, to stay in the caches


class Linear(torch.nn.Module):
    @torch.no_grad()
    def __init__(self, linear):
        super().__init__()
        self.bias = linear.bias
        self.scales = (linear.weight.abs().amax(dim=1) / 63).clamp(min=1e-30)
        self.weight = (linear.weight / self.scales[:, None]).round().to(torch.int8).t()

    def forward(self, states):
        """float32 [..., in] -> float32 [..., out]."""
        outputs = []
        for tokens in states.flatten(0, -2).split(TOKENS):
            scales = (tokens.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-30)
            sums = torch._int_mm((tokens / scales).round().to(torch.int8), self.weight)
            outputs.append(torch.addcmul(self.bias, sums * self.scales, scales))
        return torch.cat(outputs).view(*states.shape[:-1], -1)


def install(model):
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Linear:
                setattr(module, name, Linear(child))
