"""Networks that hardly learnt anything, in both layouts: the files are whole, the real engine reads them, and they compute what
the network does.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from predictors.kaldi_asr.folder import examine
from predictors.kaldi_asr.model import engine
from predictors.kaldi_asr.onnx_file import metadata
from predictors.kaldi_asr.settings import KaldiSettings
from serving.contracts.asr import AsrInput, AsrOptions, AsrResult
from tests.models.layouts import export_gigaam, export_vosk5
from tests.models.network import Network
from tests.models.train import LAYOUTS, Plan, train
from tests.models.units import Units, letters
from tests.russian import sentences

TINY = Plan(sentences=30, examples=24, steps=2, batch=12, width=16)


@pytest.fixture(scope="module", params=["gigaam", "vosk5"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / request.param
    folder.mkdir()
    threads = torch.get_num_threads()
    train(LAYOUTS[request.param], TINY, folder)
    torch.set_num_threads(threads)
    return Path(folder)


def test_the_files_and_what_they_say_are_those_of_the_layout(model: Path) -> None:
    shipped = Path(__file__).parents[2] / "models" / model.name
    assert {file.name for file in model.iterdir()} == {file.name for file in shipped.iterdir()}
    found, expected = examine(model, "auto"), examine(shipped, "auto")
    assert (found.kind, found.features) == (expected.kind, expected.features)
    for file in model.glob("*.onnx"):
        assert metadata(file) == metadata(shipped / file.name)


def test_the_real_engine_answers_with_them_alone_as_in_a_batch(model: Path) -> None:
    loaded = engine(KaldiSettings(model_id=str(model), num_threads=1))
    loaded.load()
    _, sounds = sentences(4)
    items = [AsrInput(sound, AsrOptions(timestamps="word")) for sound in sounds]
    batch, alone = loaded.run(items), [loaded.run([item])[0] for item in items]
    assert all(isinstance(result, AsrResult) for result in batch)
    assert [result.text for result in batch] == [result.text for result in alone]  # type: ignore[union-attr]


def test_training_gives_the_same_every_time(model: Path, tmp_path: Path) -> None:
    train(LAYOUTS[model.name], TINY, tmp_path)
    for file in model.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def features(bins: int, *lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows as the engine batches them: what is behind the end of one is -23.026."""
    torch.manual_seed(1)
    found = torch.randn(len(lengths), bins, max(lengths))
    for row, length in zip(found, lengths, strict=True):
        row[:, length:] = -23.025850929940457
    return found, torch.tensor(lengths)


def network(bins: int, units: int) -> Network:
    torch.manual_seed(2)
    made = Network(bins, units, 16)
    made(*features(bins, 60, 60))  # for the statistics of its normalisations to be some
    return made.eval()


@pytest.mark.parametrize("lengths", [(1,), (4, 3), (203, 150), (97, 12, 96)])
def test_a_ctc_model_computes_what_its_network_does(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    units = letters([])
    made = network(64, len(units.names))
    export_gigaam(made, units, tmp_path)
    values, counts = features(64, *lengths)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(["logprobs"], {"audio_signal": values.numpy(), "length": counts.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, made(values, counts), atol=1e-4)
        for row, (length, window) in enumerate(zip(lengths, found, strict=True)):
            steps = -(-length // 4)
            single = made(values[row : row + 1, :, :length], counts[row : row + 1])[0]
            assert len(single) == steps
            np.testing.assert_allclose(window[:steps], single, atol=1e-4)


def test_a_transducer_tells_no_unit_twice_in_a_row(tmp_path: Path) -> None:
    units = Units(("<blk>", "<sos/eos>", "<unk>", "a", "b"), 0, lambda text: [])
    made = network(80, len(units.names))
    export_vosk5(made, units, tmp_path)
    values, counts = features(80, 240, 101)
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    encoded, steps = session.run(None, {"x": values.numpy().transpose(0, 2, 1), "x_lens": counts.numpy()})
    assert steps.tolist() == [60, 26]
    with torch.no_grad():
        plain = made(values, counts).numpy()
    best, units_told = plain.argmax(-1), encoded.argmax(-1)
    repeated = np.zeros_like(best, bool)
    repeated[:, 1:] = (best[:, 1:] == best[:, :-1]) & (best[:, 1:] != 0)
    assert repeated.any()
    assert (units_told[repeated] == 0).all()
    np.testing.assert_allclose(encoded[~repeated], plain[~repeated], atol=1e-4)
    decoder = onnxruntime.InferenceSession(tmp_path / "decoder.onnx")
    (text,) = decoder.run(None, {"y": np.array([[-1, 0], [3, 4], [0, 0]])})
    assert text.shape == (3, 5)
    assert not text.any()
    joiner = onnxruntime.InferenceSession(tmp_path / "joiner.onnx")
    (joined,) = joiner.run(None, {"encoder_out": encoded[:, 0], "decoder_out": text[:2]})
    np.testing.assert_array_equal(joined, encoded[:, 0])
