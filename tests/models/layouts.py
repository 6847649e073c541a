"""A trained network as the files that sherpa-onnx reads: NeMo's CTC as GigaAM has it, icefall's transducer as Vosk 5 has it."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from tests.models.network import STRIDE, Network
from tests.models.units import Units

_OPSET = 17
_FRAMES = (203, 150)  # of the example that is traced
_NEVER = -30.0  # the logarithm of a probability that is next to none
_AUTHOR = {"model_author": "sonotome", "version": "1"}


def export_gigaam(network: Network, units: Units, folder: Path) -> None:
    """`model.onnx` and `tokens.txt`."""
    _export(
        network,
        (torch.zeros(len(_FRAMES), len(network.mean), max(_FRAMES)), torch.tensor(_FRAMES)),
        folder / "model.onnx",
        inputs={"audio_signal": {0: "N", 2: "T"}, "length": {0: "N"}},
        outputs={"logprobs": {0: "N", 1: "steps"}},
        said={
            **_AUTHOR,
            "model_type": "EncDecCTCModel",
            "language": "Russian",
            "is_giga_am": "1",  # its features are GigaAM's
            "normalize_type": "",
            "subsampling_factor": str(STRIDE),
            "vocab_size": str(len(units.names)),
        },
    )
    (folder / "tokens.txt").write_text(units.table(), "utf-8")


def export_vosk5(network: Network, units: Units, folder: Path) -> None:
    """`encoder.onnx`, `decoder.onnx`, `joiner.onnx`, `tokens.txt` and `bpe.vocab`."""
    count, windows = len(units.names), len(_FRAMES)
    features = torch.zeros(windows, max(_FRAMES), len(network.mean))
    encoded, text = {"encoder_out": {0: "N"}}, {"decoder_out": {0: "N"}}
    _export(
        _Encoder(network, units.blank),
        (features, torch.tensor(_FRAMES)),
        folder / "encoder.onnx",
        inputs={"x": {0: "N", 1: "T"}, "x_lens": {0: "N"}},
        outputs={"encoder_out": {0: "N", 1: "steps"}, "encoder_out_lens": {0: "N"}},
        said={**_AUTHOR, "model_type": "zipformer2", "comment": "non-streaming"},
    )
    _export(
        _Decoder(count),
        (torch.zeros(windows, 2, dtype=torch.int64),),
        folder / "decoder.onnx",
        inputs={"y": {0: "N"}},
        outputs=text,
        said={"vocab_size": str(count), "context_size": "2"},
    )
    _export(
        _Joiner(),
        (torch.zeros(windows, count), torch.zeros(windows, count)),
        folder / "joiner.onnx",
        inputs={**encoded, **text},
        outputs={"logit": {0: "N"}},
        said={"joiner_dim": str(count)},
    )
    (folder / "tokens.txt").write_text(units.table(), "utf-8")
    (folder / "bpe.vocab").write_text(units.vocabulary, "utf-8")


class _Encoder(nn.Module):
    """The network, with what a CTC search does in it: a step that tells the unit of the step before tells nothing.

    So a transducer's search, which takes every unit of every step, gives the text of a CTC model.
    """

    def __init__(self, network: Network, blank: int):
        super().__init__()
        self.network = network
        nothing = torch.full((len(network.head.bias),), _NEVER)
        nothing[blank] = 0.0
        self.register_buffer("nothing", nothing)
        self.blank = blank

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network(features.transpose(1, 2), lengths)
        units = found.argmax(-1)
        before = torch.cat([torch.full_like(units[:, :1], self.blank), units[:, :-1]], dim=1)
        repeated = ((units == before) & (units != self.blank)).unsqueeze(-1)
        return torch.where(repeated, self.nothing, found), (lengths + STRIDE - 1) // STRIDE


class _Decoder(nn.Module):
    """What the last two units [N, 2] say of the next: nothing, [N, units] zeros."""

    def __init__(self, units: int):
        super().__init__()
        self.units = units

    def forward(self, last: Tensor) -> Tensor:
        return (last[:, :1] * 0).float().expand(-1, self.units)


class _Joiner(nn.Module):
    def forward(self, encoded: Tensor, text: Tensor) -> Tensor:
        return encoded + text


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    file: Path,
    *,
    inputs: Mapping[str, Mapping[int, str]],
    outputs: Mapping[str, Mapping[int, str]],
    said: Mapping[str, str],
) -> None:
    """Writes a model: `inputs` and `outputs` by name with the names of their axes that vary, `said` as its metadata."""
    with warnings.catch_warnings():
        # The exporter of torch.export wants one more package, and minutes where this one takes a second.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module.eval(),
            example,
            str(file),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in {**inputs, **outputs}.items()},
            opset_version=_OPSET,
            dynamo=False,
        )
    model = onnx.load(file)
    onnx.helper.set_model_props(model, dict(said))
    onnx.checker.check_model(model)
    onnx.save(model, file)
