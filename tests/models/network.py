"""The network of the small models: log-mel features in, a CTC model's log-probabilities out, four frames to one step of 40 ms."""

import torch
from torch import Tensor, nn

_DROPPED = 0.1
_KERNELS = (7, 9, 11, 13, 15, 17)  # steps that a block looks at: a second and a half in all
STRIDE = 4


class _Block(nn.Module):
    """A convolution in time for each channel, then one across channels; around it, where sizes allow, a way past."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.in_time = nn.Conv1d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False)
        self.across = nn.Conv1d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.drop = nn.Dropout(_DROPPED)
        self.past = inputs == outputs and stride == 1

    def forward(self, values: Tensor, inside: Tensor) -> Tensor:
        found = self.drop(torch.relu(self.norm(self.across(self.in_time(values)))))
        # Without the mask what lies behind a short window would differ with the windows beside it.
        return (values + found if self.past else found) * inside


class Network(nn.Module):
    """Features [N, bins, T] and lengths int64 [N], in frames, to log-probabilities [N, ceil(T / 4), units]."""

    def __init__(self, bins: int, units: int, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(bins, 1))
        self.register_buffer("deviation", torch.ones(bins, 1))
        narrow = width * 3 // 5  # the first convolution sees the most steps
        self.first = nn.Conv1d(bins, narrow, 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm1d(narrow)
        self.second = _Block(narrow, width, 5, 2)
        self.blocks = nn.ModuleList(_Block(width, width, kernel) for kernel in _KERNELS)
        self.head = nn.Conv1d(width, units, 1)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        frames = torch.arange(features.shape[2], device=features.device)
        inside = (frames.unsqueeze(0) < lengths.unsqueeze(1)).to(features.dtype).unsqueeze(1)
        values = (features - self.mean) / self.deviation * inside
        inside = inside[:, :, ::2]
        values = torch.relu(self.norm(self.first(values))) * inside
        inside = inside[:, :, ::2]
        values = self.second(values, inside)
        for block in self.blocks:
            values = block(values, inside)
        return self.head(values).transpose(1, 2).log_softmax(-1)
