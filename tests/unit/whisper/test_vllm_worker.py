"""Encodings that vLLM's worker keeps: each window is encoded once, however many requests it makes."""

import warnings
import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch


class Encoder:
    """Stands in for the model's; counts the windows that it encodes."""

    def __init__(self) -> None:
        self.encoded = 0

    def __call__(self, windows: Sequence[torch.Tensor]) -> torch.Tensor:
        self.encoded += len(windows)
        return torch.stack([window.mean() * torch.ones(3, 2) for window in windows])


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def encodings(encoder: Encoder) -> Any:
    """Room for two; torch warns of itself while vLLM is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from predictors.whisper.backends.vllm_worker import _Encodings
    return _Encodings(encoder, 2, noting=True)


class Times(torch.nn.Module):
    """Stands in for a projection; counts its calls."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor
        self.calls = 0

    def forward(self, encodings: torch.Tensor) -> tuple[torch.Tensor, None]:
        self.calls += 1
        return encodings * self.factor, None


class Layer(torch.nn.Module):
    """Of a decoder, as far as its keys and values go."""

    def __init__(self, encodings: Any, factor: float):
        super().__init__()
        from predictors.whisper.backends.vllm_worker import _Projection

        self.project = Times(factor)
        self.encoder_attn = torch.nn.Module()
        self.encoder_attn.kv_proj = _Projection(self.project, encodings)

    def step(self, encodings: torch.Tensor) -> torch.Tensor:
        made, _ = self.encoder_attn.kv_proj(encodings)
        assert isinstance(made, torch.Tensor)
        return made


@pytest.fixture
def layers(encodings: Any) -> list[Layer]:
    return [Layer(encodings, 2.0), Layer(encodings, 3.0)]


def window(value: float) -> torch.Tensor:
    return torch.full((4, 5), value)


def test_a_window_is_encoded_once(encodings: Any, encoder: Encoder) -> None:
    first = encodings([window(1.0)])
    again = encodings([torch.stack([window(1.0), window(2.0)])])
    assert torch.equal(first[0], again[0])
    assert (tuple(again.shape), encoder.encoded) == ((2, 3, 2), 2)


def test_a_window_that_is_done_makes_room_for_those_still_at_work(encodings: Any, encoder: Encoder) -> None:
    encodings([window(1.0)])
    for number in range(2, 6):  # come and go, while the first one is still decoded
        encodings([window(float(number))])
        assert torch.equal(encodings.use(window(float(number)), last=True)[0], torch.full((3, 2), float(number)))
    assert torch.equal(encodings([window(1.0)])[0], torch.ones(3, 2))
    assert encoder.encoded == 5


def test_what_had_to_go_is_encoded_again(encodings: Any, encoder: Encoder) -> None:
    for number in range(4):
        encodings([window(float(number))])
    assert torch.equal(encodings.use(window(0.0), last=True)[0], torch.zeros(3, 2))
    assert encoder.encoded == 5


def test_a_window_that_is_decoded_once_more_after_its_alignment_stays(encodings: Any, encoder: Encoder) -> None:
    encodings([window(1.0)])
    for last in (False, True):
        encodings([window(1.0)])
        assert torch.equal(encodings.use(window(1.0), last=last)[0], torch.ones(3, 2))
    assert encoder.encoded == 1


@pytest.mark.parametrize(("device", "eager"), [("cuda", True), ("cuda", False), ("cpu", True), ("cpu", False)])
def test_of_windows_that_are_done_nothing_stays(encoder: Encoder, device: str, eager: bool) -> None:
    from predictors.whisper.backends.vllm_worker import WhisperWorker, _Projection

    layer = SimpleNamespace(encoder_attn=SimpleNamespace(kv_proj=Times(2.0)))
    model = SimpleNamespace(get_encoder_outputs=encoder, decoder=SimpleNamespace(layers=[layer]))
    worker = WhisperWorker()
    worker.model_runner = SimpleNamespace(
        get_model=lambda: SimpleNamespace(model=model),
        device=torch.device(device),
        model_config=SimpleNamespace(enforce_eager=eager),
    )
    worker.whisper_keep_encodings(2)
    assert isinstance(layer.encoder_attn.kv_proj, _Projection) == (device == "cpu" and eager)
    alive = []
    for number in range(50):
        step = model.get_encoder_outputs([window(float(number))])
        layer.encoder_attn.kv_proj(step.flatten(0, 1))
        encoding, _ = model.get_encoder_outputs.use(window(float(number)), last=True)
        alive.append(weakref.ref(encoding))
        del encoding
    assert sum(reference() is not None for reference in alive) <= 1  # the last step's


def made_again(layers: list[Layer], encoding: torch.Tensor, projected: Any) -> list[torch.Tensor]:
    """What an alignment gets of layers; they are as before after it."""
    from predictors.whisper.backends.vllm_worker import _projected, _Projection

    with _projected(layers, projected):
        made = [layer.step(encoding) for layer in layers]
    assert all(isinstance(layer.encoder_attn.kv_proj, _Projection) for layer in layers)
    return made


def test_keys_and_values_are_made_once(encodings: Any, layers: list[Layer]) -> None:
    step = encodings([window(1.0), window(2.0)]).flatten(0, 1)
    for layer in layers:
        layer.step(step)
    for value in (2.0, 1.0):
        encoding, projected = encodings.use(window(value), last=True)
        made = made_again(layers, encoding, projected)
        assert [float(each[0, 0]) for each in made] == [2 * value, 3 * value]
        assert all(each.shape == encoding.shape for each in made)
    assert [layer.project.calls for layer in layers] == [1, 1]


def test_encodings_that_come_in_two_parts_belong_to_one_step(encodings: Any, layers: list[Layer]) -> None:
    step = torch.cat([encodings([window(1.0)])[0], encodings([window(2.0)])[0]])
    layers[0].step(step)
    assert [
        float(encodings.use(window(v), last=True)[1][layers[0].encoder_attn.kv_proj][0, 0]) for v in (1.0, 2.0)
    ] == [2, 4]


def test_what_is_no_encoding_of_the_step_is_not_kept(encodings: Any, layers: list[Layer]) -> None:
    """vLLM warms up with zeros, and an alignment whose encoding had to go makes its keys and values anew."""
    encodings([window(1.0)])
    layers[0].step(torch.zeros(3, 2))
    layers[0].step(torch.zeros(6, 2))
    other = made_again(layers, torch.full((3, 2), 5.0), {})
    assert [float(each[0, 0]) for each in other] == [10.0, 15.0]
    assert encodings.use(window(1.0), last=True)[1] == {}
