"""A worker process of the decoder pool: `python -m transformers_pre.audio.decoder`, jobs and answers on its standard input.

It takes one file after another (`wire.Job`), decodes it with FFmpeg (PyAV), mixes the channels, resamples to 16 kHz with
soxr and sends blocks of about a second; the socket's buffer holds it back while nobody reads. Nothing here trusts the file:
a crash, a memory bomb or an endless loop ends this process, which its parent (`media.DecoderPool`) replaces. It imports
av, numpy and soxr only, so that a new one is up in a fraction of a second; it reads no settings and writes no files.
"""

import errno
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Final, NoReturn

import av
import av.container
import av.error
import av.stream
import numpy as np
import numpy.typing as npt
import soxr

from serving.workers import child
from serving.workers.wire import RefusedError
from transformers_pre.audio import containers
from transformers_pre.audio.containers import LiveDamage, LiveFile, MediaFile
from transformers_pre.audio.wire import SAMPLE_RATE, End, Info, Job, Kind

Samples = npt.NDArray[np.float32]

RATES: Final = range(2_000, 768_001)
"""Sample rates that are read. Below, one sample would become many seconds; above, nothing records."""
LONGEST_GAP_SECONDS: Final = 30.0
"""A gap in the timestamps up to this becomes silence, so that times stay the recording's own. A longer one is no gap:
clocks that wrap, streams that were joined, headers that lie."""
SHORTEST_GAP_SECONDS: Final = 0.1
"""Timestamps of healthy files are this exact; several containers round them to milliseconds or to packets."""
CORRUPT_PACKETS: Final = 8
"""So many packets may be damaged, and one in a hundred besides; then the file is refused."""

_FORMATS: Final = {  # FFmpeg's sample formats: the type to add channels in, zero, full scale
    "u8": (np.float32, 128.0, 2.0**7),
    "s16": (np.float32, 0.0, 2.0**15),
    "s32": (np.float64, 0.0, 2.0**31),
    "flt": (np.float32, 0.0, 1.0),
    "dbl": (np.float64, 0.0, 1.0),
}
# Tags need not be UTF-8: PyAV 19 takes that as it is, earlier ones have to be told.
_ANY_TAGS: Final[dict[str, Any]] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
_BLOCKS_A_SECOND, _LIVE_BLOCKS_A_SECOND = 1, 10  # that are sent; live speech waits for its block to be full
_ROUNDING_SAMPLES = 16  # a resampler's last samples are no excess over a limit: 1 ms


def main() -> None:
    """Entry point: `python -m transformers_pre.audio.decoder PARENT MEMORY_BYTES`, a socket as standard input."""
    child.serve(_answer, out_of_memory="the file takes too much memory to decode")


def _answer(job: Job, descriptors: list[int], send: child.Send) -> None:
    file = LiveFile(descriptors[0], lambda: send(Kind.MORE, b"")) if job["live"] else MediaFile(descriptors[0])
    end = _decode(job, file, send)
    send(Kind.END, json.dumps(end).encode())


def _decode(job: Job, file: MediaFile | LiveFile, send: child.Send) -> End:
    with _open(file) as container:
        stream = _audio_stream(container)
        _check_channels(stream.codec_context.channels, job)
        stated = containers.stated_seconds(container, stream, file) if isinstance(file, MediaFile) else None
        if stated is not None and 0 < job["max_seconds"] < stated - 1.0:
            raise _too_long(job["max_seconds"], f"{stated:.1f} s by its header")
        send(Kind.INFO, json.dumps(Info(channels=stream.codec_context.channels)).encode())
        blocks = _Blocks(job, lambda block: send(Kind.BLOCK, block.astype("<f4", copy=False).tobytes()))
        damage = LiveDamage(container, file) if isinstance(file, LiveFile) else None
        frames = _Frames(container, stream, damage)
        timeline = _Timeline(container)
        for frame in frames:
            blocks.silence(timeline.gap_before(frame, after_damage=frames.damaged))
            frames.damaged = False
            blocks.add(frame)
        blocks.finish()
        if damage is not None:
            damage.check()
        if blocks.count:
            containers.check_reached(stated, max(timeline.end, blocks.count / SAMPLE_RATE))
        elif frames.packets or stated:
            raise RefusedError(422, "no_audio_samples", "the file has an audio header but no audio that can be decoded")
        return End(corrupt_packets=frames.corrupt)


def _open(file: MediaFile | LiveFile) -> av.container.InputContainer:
    try:
        container: av.container.InputContainer = av.open(
            file,
            "r",
            options={"format_whitelist": containers.FORMATS},
            buffer_size=1 << 16,
            io_open=_refuse_reference,
            **_ANY_TAGS,
        )
    except av.error.FFmpegError as error:
        _raise_if_memory(error)
        if isinstance(file, MediaFile):
            containers.check_whole(file)
        raise RefusedError(
            415,
            "unsupported_audio",
            f"the file is no audio that is read here, or is damaged; read are {containers.ACCEPTED}",
        ) from None
    return container


def _refuse_reference(_url: str, _flags: int, _options: dict[str, str]) -> NoReturn:
    """FFmpeg calls this when a file names another one."""
    raise PermissionError(errno.EACCES, "a media file may not refer to others")


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream:
    """The stream that FFmpeg takes for the best: the default one, else that with most channels and bits."""
    if not container.streams.audio:
        raise RefusedError(422, "no_audio_stream", "the file has no audio in it")
    stream = container.streams.best("audio")
    if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
        raise RefusedError(415, "unsupported_codec", "the audio in the file is in a codec that is not read here")
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    if not stream.codec_context.sample_rate:
        raise RefusedError(415, "unsupported_audio", f"the file is damaged; read are {containers.ACCEPTED}")
    stream.codec_context.thread_count = 1
    return stream


def _check_channels(count: int, job: Job) -> None:
    if count > job["max_channels"]:
        raise RefusedError(
            413,
            "too_many_channels",
            f"the audio has {count} channels, at most {job['max_channels']} are accepted (MAX_CHANNELS)",
        )
    if job["channel"] is not None and not 0 <= job["channel"] < count:
        raise RefusedError(
            400, "no_such_channel", f"channel {job['channel']} was asked for, the audio has channels 0 to {count - 1}"
        )


def _too_long(limit: float, length: str) -> RefusedError:
    return RefusedError(
        413,
        "audio_too_long",
        f"the audio is longer than {limit:g} s, the limit here (MAX_AUDIO_SECONDS): it has {length}",
    )


def _raise_if_memory(error: av.error.FFmpegError) -> None:
    if error.errno == errno.ENOMEM:
        raise MemoryError from error


class _Frames:
    """The decoded frames of a stream. Damaged packets are left out, up to a limit.

    Iterating raises RefusedError over it.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.AudioStream, live_damage: LiveDamage | None):
        self._container = container
        self._stream = stream
        self._live_damage = live_damage
        self.packets = 0
        """Packets with data in them, damaged ones included."""
        self.corrupt = 0
        self.damaged = False
        """Whether a packet was left out; the reader resets it."""

    def __iter__(self) -> Iterator[av.AudioFrame]:
        for packet in self._read():
            self.packets += packet.size > 0
            if self._live_damage is not None:
                self._live_damage.add(packet.size)
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self._note(error)
            else:
                yield from frames

    def _read(self) -> "Iterator[av.Packet[av.AudioStream]]":  # generic for type checkers only
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self._note(error)
                packets = self._container.demux(self._stream)  # goes on behind the damage
                continue
            if packet is None:
                return
            yield packet

    def _note(self, error: av.error.FFmpegError) -> None:
        _raise_if_memory(error)
        self.corrupt += 1
        self.damaged = True
        if self._live_damage is not None and not self.packets:
            raise RefusedError(
                415,
                "unsupported_audio",
                "the file cannot be read while it comes: its index lies behind its audio, or it is damaged; send WebM, Ogg, "
                "fragmented MP4 or another kind that is made for streams",
            )
        if self.corrupt > CORRUPT_PACKETS + self.packets // 100:
            raise RefusedError(
                422,
                "corrupt_audio",
                f"the audio is damaged: {self.corrupt} of its first {self.packets} packets cannot be decoded, at most "
                f"{CORRUPT_PACKETS} and one in a hundred are left out",
            )


class _Timeline:
    """Where the next frame should start, so that a late start and holes become silence. Seconds on the file's clock."""

    def __init__(self, container: av.container.InputContainer):
        self._known = container.start_time is not None
        self.end = container.start_time / av.time_base if container.start_time is not None else 0.0

    def gap_before(self, frame: av.AudioFrame, *, after_damage: bool) -> float:
        """Seconds of silence that belong before `frame`, which becomes the end."""
        length = frame.samples / frame.sample_rate
        if frame.pts is None or frame.time_base is None:
            self.end += length
            return 0.0
        start = float(frame.pts * Fraction(frame.time_base))
        gap = start - self.end if self._known else 0.0
        self._known = True
        self.end = start + length
        shortest = 0.0 if after_damage else SHORTEST_GAP_SECONDS
        return gap if shortest <= gap <= LONGEST_GAP_SECONDS else 0.0


class _Blocks:
    """Frames of any format in, blocks of mono float32 at 16 kHz out; a format may change between any two frames.

    Raises RefusedError for what is too long, has too many channels or holds no numbers.
    """

    def __init__(self, job: Job, emit: Callable[[Samples], None]):
        self._job = job
        self._blocks_a_second = _LIVE_BLOCKS_A_SECOND if job["live"] else _BLOCKS_A_SECOND
        self._emit_block = emit
        self.count = 0
        """Samples sent so far."""
        self._fifo = av.AudioFifo()
        self._format: tuple[str, int, int] | None = None
        self._rate = SAMPLE_RATE
        self._resampler: soxr.ResampleStream | None = None

    def add(self, frame: av.AudioFrame) -> None:
        """Takes a frame in."""
        kind = (frame.format.name, frame.layout.nb_channels, frame.sample_rate)
        if kind != self._format:
            self._change(frame)
            self._format = kind
        frame.pts = None  # the queue would insist on timestamps without a gap
        self._fifo.write(frame)
        for block in self._fifo.read_many(self._rate // self._blocks_a_second):
            self._push(self._mono(block))

    def silence(self, seconds: float) -> None:
        """Adds silence of a length between two frames."""
        if seconds:
            self._drain()
        left = round(seconds * self._rate)
        while left:
            part = min(left, self._rate)
            self._push(np.zeros(part, np.float32))
            left -= part

    def finish(self) -> None:
        """Sends what is still on the way."""
        self._drain()
        self._flush()

    def _change(self, frame: av.AudioFrame) -> None:
        self._drain()
        if frame.format.packed.name not in _FORMATS:
            raise RefusedError(415, "unsupported_codec", "the audio has samples of a type that is not read here")
        _check_channels(frame.layout.nb_channels, self._job)
        if frame.sample_rate not in RATES:
            raise RefusedError(
                422,
                "sample_rate",
                f"the audio has {frame.sample_rate} samples a second, read are {RATES[0]} to {RATES[-1]}",
            )
        self._fifo = av.AudioFifo()
        if frame.sample_rate != self._rate:
            self._flush()
            self._rate = frame.sample_rate
            if self._rate != SAMPLE_RATE:
                self._resampler = soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def _drain(self) -> None:
        if (frame := self._fifo.read()) is not None:
            self._push(self._mono(frame))

    def _flush(self) -> None:
        """Sends the resampler's tail and forgets it."""
        if self._resampler is not None:
            self._send(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            self._resampler = None

    def _mono(self, frame: av.AudioFrame) -> Samples:
        """The channel that was asked for, or the mean of all, in [-1, 1] (more where a float file has more)."""
        kind, zero, scale = _FORMATS[frame.format.packed.name]
        data = frame.to_ndarray()
        channels = data if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels).T
        if self._job["channel"] is not None:
            channels = channels[self._job["channel"]][None]
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # float files hold anything; what is no number is refused below
            mixed = channels[0].astype(kind)
            for other in channels[1:]:
                mixed += other
            mixed -= zero * len(channels)
            mixed *= 1 / (scale * len(channels))
            mono: Samples = mixed.astype(np.float32, copy=False)
        if not np.isfinite(mono).all():
            raise RefusedError(422, "corrupt_audio", "the audio holds samples that are no finite numbers")
        return mono

    def _push(self, samples: Samples) -> None:
        self._send(samples if self._resampler is None else self._resampler.resample_chunk(samples))

    def _send(self, block: Samples) -> None:
        if not len(block):
            return
        self.count += len(block)
        limit = self._job["max_seconds"]
        if limit and self.count > limit * SAMPLE_RATE + _ROUNDING_SAMPLES:
            raise _too_long(limit, "more")
        self._emit_block(np.clip(block, -1.0, 1.0))


if __name__ == "__main__":
    main()
