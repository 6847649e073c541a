"""Media files for tests, made with PyAV's encoders: any container and codec, any signal, damaged on demand. No assertions."""

import io
import struct
import tempfile
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt

from transformers_pre.audio.media import DecoderPool

Samples = npt.NDArray[np.float32]

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def stored(data: bytes) -> BinaryIO:
    """A file of the system that holds `data`; the caller closes it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller's
    file.write(data)
    file.flush()
    return file


async def decode(pool: DecoderPool, data: bytes, channel: int | None = None) -> Samples:
    """All samples of a file that holds `data`."""
    with stored(data) as file:
        async with pool.open(file, channel=channel) as audio:
            blocks = [block async for block in audio]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def tones(rate: int, seconds: float, channels: int = 1) -> Samples:
    """[n, channels]: in each channel two tones that come and go, and a little noise; no two seconds are alike."""
    time = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(7)
    found = []
    for channel in range(channels):
        carrier = np.sin(2 * np.pi * (210 + 90 * channel) * time) + 0.5 * np.sin(
            2 * np.pi * (1370 - 110 * channel) * time
        )
        envelope = 0.5 + 0.4 * np.sin(2 * np.pi * 0.37 * time + channel)
        found.append(0.3 * carrier * envelope + 0.01 * noise.standard_normal(len(time)))
    return np.stack(found, axis=1).astype(np.float32)


def encode(
    container: str, codec: str, rate: int, samples: Samples, *, bit_rate: int | None = None, **options: str
) -> bytes:
    """A file with one audio stream that holds samples [n, channels]."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = LAYOUTS[samples.shape[1]]
        if bit_rate:
            stream.bit_rate = bit_rate
        write(output, stream, samples)
    return file.getvalue()


def write(
    output: av.container.OutputContainer, stream: av.AudioStream, samples: Samples, start_seconds: float = 0.0
) -> None:
    """Encodes samples [n, channels] as the whole of a stream."""
    context = stream.codec_context
    if not context.is_open:  # the container's header opens all encoders
        context.open()
    layout = LAYOUTS[samples.shape[1]]
    resampler = av.AudioResampler(context.format.name, layout, context.sample_rate, context.frame_size or None)
    position = round(start_seconds * context.sample_rate)
    for second in np.array_split(samples, max(1, len(samples) // context.sample_rate)):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(second.T), "fltp", layout)
        frame.sample_rate, frame.time_base, frame.pts = context.sample_rate, Fraction(1, context.sample_rate), position
        position += len(second)
        for ready in resampler.resample(frame):
            output.mux(stream.encode(ready))
    for ready in resampler.resample(None):
        output.mux(stream.encode(ready))
    output.mux(stream.encode(None))


def wav(
    data: bytes, *, rate: int = 16_000, channels: int = 1, bits: int = 16, kind: int = 1, declared: int | None = None
) -> bytes:
    """A RIFF WAVE file of raw samples; `declared` is the size that its header claims to hold."""
    frame = channels * bits // 8
    size = len(data) if declared is None else declared
    head = struct.pack("<IHHIIHH", 16, kind, channels, rate, rate * frame % 2**32, frame % 2**16, bits)
    return (
        b"RIFF" + struct.pack("<I", (36 + size) % 2**32) + b"WAVEfmt " + head + b"data" + struct.pack("<I", size) + data
    )


def pcm16(samples: Samples) -> bytes:
    """Samples as interleaved little-endian 16-bit integers."""
    return np.round(samples * 32767).astype("<i2").tobytes()


def id3_picture(size: int) -> bytes:
    """An ID3v2 tag with a cover of so many bytes, to stand before an MP3."""
    body = b"\0image/png\0\3\0" + bytes(size)
    frame = b"APIC" + struct.pack(">IH", len(body), 0) + body
    length = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + length + frame


def video(seconds: float, *, audio: dict[str, tuple[Samples, float]] | None = None, default: str = "") -> bytes:
    """A Matroska file with a black film and audio tracks by title: samples [n, channels] at 16 kHz, start in seconds."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        film = output.add_stream("mpeg4", rate=10)
        film.width = film.height = 64
        film.pix_fmt = "yuv420p"
        tracks = []
        for title, (samples, start) in (audio or {}).items():
            track = output.add_stream("pcm_s16le", rate=16_000)
            track.layout = LAYOUTS[samples.shape[1]]
            track.disposition = av.stream.Disposition.default if title == default else av.stream.Disposition(0)
            tracks.append((track, samples, start))
        for number in range(round(10 * seconds)):
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(film.encode(frame))
        output.mux(film.encode(None))
        for track, samples, start in tracks:
            write(output, track, samples, start)
    return file.getvalue()


def one_packet(data: bytes) -> bytes:
    """A Matroska file of 16-bit PCM at 16 kHz, all of it in one packet."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=16_000)
        stream.layout = "mono"
        packet = av.Packet(data)
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 16_000)
        output.mux(packet)
    return file.getvalue()
