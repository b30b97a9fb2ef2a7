"""Linear layers in 8 bits, for predict.py --int8.

Each token has its own scale: a result does not depend on other tokens. Weights have 7 bits: with
8, pairs of products could overflow 16 bits on AVX2.
"""

import torch

TOKENS = 256  # at once, to stay in caches


class Linear(torch.nn.Module):
    @torch.no_grad()
    def __init__(self, linear):
        super().__init__()
        self.bias = linear.bias
        self.scales = (linear.weight.abs().amax(dim=1) / 63).clamp(min=1e-30)
        self.weight = (linear.weight / self.scales[:, None]).round().to(torch.int8).t()

    def forward(self, states):
        """float32 [..., in] -> float32 [..., out]."""
        inputs = states.flatten(0, -2)
        outputs = inputs.new_empty(len(inputs), len(self.bias))
        for tokens, output in zip(inputs.split(TOKENS), outputs.split(TOKENS), strict=True):
            scales = (tokens.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-30)
            sums = torch._int_mm((tokens / scales).round_().to(torch.int8), self.weight)
            output.copy_(sums).mul_(self.scales)
            torch.addcmul(self.bias, output, scales, out=output)
        return outputs.unflatten(0, states.shape[:-1])


def install(model):
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear:
            model.set_submodule(name, Linear(module))
