"""What Whisper may say next (`vllm_tokens.Rules`), as vLLM's logits processor, for a batch at once.

vLLM's own server decodes without these rules, and without them timestamps run wild. vLLM imports this module in its worker
process; the ids come by `additional_config`, what is asked of a request by its `extra_args`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor

from predictors.whisper.vllm_tokens import REQUEST_KEY, Rules

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig


@dataclass(frozen=True)
class _Request:
    timestamps: bool
    before: list[int]
    new: list[int]
    """What it has said since; vLLM adds to it."""

    @property
    def said(self) -> list[int]:
        return self.before + self.new


class WhisperRules(LogitsProcessor):  # type: ignore[misc]  # vllm's types are not read
    """Masks what may not come next, for requests with our `extra_args`."""

    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool):
        self._rules = Rules.from_config(vllm_config.additional_config)
        self._device = device
        self._requests: dict[int, _Request] = {}
        self._steps = torch.arange(
            vllm_config.model_config.get_vocab_size() - self._rules.first_timestamp, device=device
        )
        self._never = self._tensor(self._rules.never)
        self._not_first = self._tensor(self._rules.not_first)

    def _tensor(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._device)

    def is_argmax_invariant(self) -> bool:
        """Masks change what is most probable."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows requests as they come, go and move."""
        process_dict_updates(self._requests, batch_update, self._known)

    @staticmethod
    def _known(params: "SamplingParams", _prompt: list[int] | None, new: list[int]) -> _Request | None:
        ours = (params.extra_args or {}).get(REQUEST_KEY)
        return None if ours is None else _Request(ours["timestamps"], ours["before"], new)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Masks rows [B, V] in place."""
        if not self._requests:
            return logits
        rows = sorted(self._requests)
        everything = len(rows) == logits.shape[0]
        index = None if everything else torch.tensor(rows, device=self._device)
        chosen = logits if index is None else logits[index]
        self._filter(chosen, [self._requests[row] for row in rows])
        if index is not None:
            logits[index] = chosen
        return logits

    def _filter(self, logits: torch.Tensor, requests: Sequence[_Request]) -> None:
        """In as few passes over the vocabulary as it takes: this comes between all steps of all requests."""
        first, nothing = self._rules.first_timestamp, -torch.inf
        bounds = [
            self._rules.bounds(request.said, first + len(self._steps), timestamps=request.timestamps)
            for request in requests
        ]
        times_from, times_to = (self._tensor([bound[part] - first for bound in bounds]).unsqueeze(1) for part in (1, 2))
        text, times = logits[:, :first], logits[:, first:]
        text.index_fill_(1, self._never, nothing)
        for row, (request, (text_from, _, _)) in enumerate(zip(requests, bounds, strict=True)):
            if text_from:
                text[row, :text_from] = nothing
            if not request.said:
                text[row].index_fill_(0, self._not_first, nothing)
        times.masked_fill_((self._steps < times_from) | (self._steps >= times_to), nothing)
        with_times = torch.tensor([request.timestamps for request in requests], device=self._device).unsqueeze(1)
        text[:, self._rules.no_timestamps].masked_fill_(with_times[:, 0], nothing)
        # A time is said when all times together are more probable than any one text token.
        more = times.logsumexp(dim=1, keepdim=True) > text.amax(dim=1, keepdim=True)
        text.masked_fill_(with_times & more, nothing)
