"""What a media file's container tells before it is decoded, and how far it can be believed.

FFmpeg plays what is there and clamps or guesses the rest; a transcript that silently lacks the second half of a recording
is worse than a refusal. So files that were cut off are found here: by their declared sizes (WAV, FLAC, MP4, ID3), by an
unfinished last page (Ogg), or by a declared duration that decoding does not reach (the containers whose duration is a
statement, no estimate).
Raw streams (ADTS, AC-3, AMR, MP3 without a Xing frame) say nothing to hold them to. No decoding here.
"""

import os
import re
from collections.abc import Callable, Iterator
from typing import Final

import av
import av.container
import av.stream

from serving.workers.wire import RefusedError
from transformers_pre.audio.wire import MAX_PIECE_BYTES

FORMATS: Final = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dss,dts,dtshd,dv,eac3,flac,flv,iff,ircam,loas,matroska,mlp,mov,mp3,"
    "mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,oma,pvf,qcp,qoa,rm,shn,sox,spdif,tak,truehd,tta,voc,w64,wav,wsd,wtv,wv,xwma"
)
"""FFmpeg's demuxers that are used: self-contained media. Playlists (HLS, DASH, concat, SDP ...) open further files and
addresses, and the text and image formats take everything for a picture: neither may be reached by an upload."""
ACCEPTED: Final = (
    "WAV, FLAC, MP3, OGG (Opus, Vorbis), M4A/MP4, WebM/Matroska, AAC, AMR, WMA, AIFF, CAF "
    "and other self-contained audio and video files"
)
"""The same for people."""

_STATED_DURATION = frozenset({"aiff", "ape", "au", "flac", "mov,mp4,m4a,3gp,3g2,mj2", "tak", "tta", "w64", "wv"})
_MOST_PARTS = 1000  # chunks or boxes of a file that are looked at; far more than any writer makes before the samples
_RIFF_SLACK_BYTES = 1024  # a pad byte or a miscounted tail is no lost speech
# Sizes of samples that say no more than that the writer streamed and could not come back to its header.
_RIFF_STREAMED = (
    range(1),
    range(0x7FFF_0000, 0x8000_0001),  # SoX: 0x7ffff000 in whole frames; others: 0x7fffffff; arecord: 0x80000000
    range(0xFFFF_FF00, 0x1_0000_0000),  # FFmpeg, OpenAI's speech
)
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # the longest page: header, segment table, segments (RFC 3533, 6)


class MediaFile:
    """A seekable file over a descriptor, for PyAV. It reads by position, so jobs may share one open file."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._position = 0
        self.size = os.fstat(descriptor).st_size

    def read(self, size: int) -> bytes:
        """At most `size` bytes from the current position."""
        data = self.at(self._position, size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position and returns it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def at(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position`, which may lie beyond the end."""
        return b"" if position >= self.size else os.pread(self._descriptor, size, position)


_LIVE_KINDS: Final = ("ogg", "matroska,webm")
_HEADER_BYTES: Final = 1 << 15  # with tags, padding and code books
_PACKET_OVERHEAD_BYTES: Final = 64  # a page of Ogg has 27 and one or two a packet, a block of WebM up to 20


class LiveFile:
    """A recording that is still being made, for PyAV, which cannot seek in it. It comes by a socket of packets.

    Args:
        descriptor: the socket; its end is the recording's.
        ask: is called when everything so far has been read.
    """

    def __init__(self, descriptor: int, ask: Callable[[], None]):
        self._descriptor = descriptor
        self._ask = ask
        self._rest = b""
        self._ended = False
        self.taken = 0
        """Bytes that were read so far."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, as soon as there are any; none at the end, however often it is asked for."""
        if not self._rest and not self._ended:
            self._ask()
            self._rest = os.read(self._descriptor, MAX_PIECE_BYTES)
            self._ended = not self._rest
        data, self._rest = self._rest[:size], self._rest[size:]
        self.taken += len(data)
        return data


def stated_seconds(container: av.container.InputContainer, stream: av.stream.Stream, file: MediaFile) -> float | None:
    """The audio's duration where the container states it, None where FFmpeg would be guessing.

    Raises:
        RefusedError: the bytes that are there already show that the file was cut off.
    """
    name = container.format.name
    if name == "matroska,webm":
        return _matroska_seconds(stream.metadata.get("DURATION", ""))
    if name == "wav":
        stated = _check_riff_data(file) and stream.codec_context.name.startswith("pcm_")
    elif name == "mp3":
        stated = _counts_frames(file)
    elif name == "ogg":
        _check_last_ogg_page(file)
        stated = len(container.streams) == 1  # FFmpeg reads it off the last page, whichever stream that belongs to
    else:
        stated = name in _STATED_DURATION
    if not stated or stream.duration is None or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)


def check_reached(stated: float | None, reached: float) -> None:
    """Raises RefusedError when decoding ended over a second before the duration that the container states."""
    if stated is not None and reached < stated - 1.0:
        raise RefusedError(
            422,
            "truncated_audio",
            f"the file is cut off or damaged: it should hold {stated:.1f} s of audio, {reached:.1f} s are there",
        )


class LiveDamage:
    """Whether a container that came while it was made held bytes that are no audio: FFmpeg passes damage over in silence.

    Only for Ogg and WebM with nothing else in them, which browsers make: others may hold anything.
    """

    def __init__(self, container: av.container.InputContainer, file: LiveFile):
        self._known = container.format.name in _LIVE_KINDS and len(container.streams) == 1
        self._file = file
        self._packets = 0
        self._bytes = 0

    def add(self, packet_bytes: int) -> None:
        """Takes note of a packet."""
        self._packets += 1
        self._bytes += packet_bytes

    def check(self) -> None:
        """At the end. Raises RefusedError for more bytes outside of packets than a container needs."""
        lost = self._file.taken - self._bytes
        if self._known and lost > _HEADER_BYTES + _PACKET_OVERHEAD_BYTES * self._packets:
            raise RefusedError(
                422,
                "corrupt_audio",
                f"the audio is damaged: {lost} of its {self._file.taken} bytes belong to nothing that can be read",
            )


def check_whole(file: MediaFile) -> None:
    """Raises RefusedError when a file that FFmpeg cannot open is of a known kind, and its header goes beyond its end."""
    head = file.at(0, 12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        ends = [start + size for name, start, size in _riff_chunks(file) if name != b"data"]
    elif head[4:8] == b"ftyp":
        ends = list(_mp4_box_ends(file))
    elif head[:4] == b"fLaC":
        ends = list(_flac_block_ends(file))
    else:
        ends = [_id3_bytes(file)]
    if (declared := max(ends, default=0)) > file.size:
        raise _cut_off(file.size, f"{declared} bytes")


def _cut_off(held: int, declared: str) -> RefusedError:
    return RefusedError(
        422,
        "truncated_audio",
        f"the file is cut off: its header declares {declared}, {held} are there; send the whole file",
    )


def _riff_chunks(file: MediaFile) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and declared size of the chunks of a RIFF file, as far as there are any."""
    position = 12
    for _ in range(_MOST_PARTS):
        head = file.at(position, 8)
        if len(head) < 8:
            return
        size = int.from_bytes(head[4:], "little")
        yield head[:4], position + 8, size
        position += 8 + size + size % 2


def _check_riff_data(file: MediaFile) -> bool:
    """Whether a WAV's header gives the size of its samples; raises RefusedError when they are not all there."""
    long_size = 0
    for name, start, size in _riff_chunks(file):
        if (
            name == b"ds64"
        ):  # RF64 (EBU Tech 3306): the 64-bit sizes, that of the samples is the second; -1 where streamed
            long_size = int.from_bytes(file.at(start + 8, 8), "little", signed=True)
        if name == b"data":
            declared = long_size if size == 0xFFFF_FFFF and long_size > 0 else size
            if declared == size and any(size in sizes for sizes in _RIFF_STREAMED):
                return False
            held = max(0, file.size - start)
            if held < declared - _RIFF_SLACK_BYTES or not held:
                raise _cut_off(held, f"{declared} bytes of samples")
            return True
    return False


def _mp4_box_ends(file: MediaFile) -> Iterator[int]:
    """Where each of an MP4's outermost boxes ends, by its declared size (ISO/IEC 14496-12, 4.2)."""
    position = 0
    for _ in range(_MOST_PARTS):
        head = file.at(position, 16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:  # the file's end, or a box that goes up to it
            return
        position += size
        yield position


def _flac_block_ends(file: MediaFile) -> Iterator[int]:
    """Where each of a FLAC's metadata blocks ends, by its declared size (RFC 9639, 8.1)."""
    position, last = 4, False
    while not last and len(head := file.at(position, 4)) == 4:
        last = bool(head[0] & 0x80)
        position += 4 + int.from_bytes(head[1:], "big")
        yield position


def _id3_bytes(file: MediaFile) -> int:
    """The size of the tag that an MP3 begins with; 0 without one. It has seven bits a byte (ID3v2.4, 3.1)."""
    head = file.at(0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _check_last_ogg_page(file: MediaFile) -> None:
    """Raises RefusedError when an Ogg file ends in the middle of a page."""
    start = max(0, file.size - _OGG_PAGE_BYTES)
    tail = file.at(start, _OGG_PAGE_BYTES)
    page = tail.rfind(b"OggS\0")
    if page < 0:
        return
    segments = tail[page + 26 : page + 27]
    table = tail[page + 27 : page + 27 + segments[0]] if segments else b""
    if not segments or len(table) < segments[0] or page + 27 + len(table) + sum(table) > len(tail):
        raise RefusedError(
            422, "truncated_audio", "the file is cut off in the middle of an Ogg page; send the whole file"
        )


def _matroska_seconds(tag: str) -> float | None:
    """A track's DURATION tag, e.g. 00:00:10.005000000: the end of its last frame on the file's clock."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", tag)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def _counts_frames(file: MediaFile) -> bool:
    """Whether an MP3's first frame is a Xing or Info frame with the number of frames."""
    frame = file.at(_id3_bytes(file), 256)
    found = re.search(b"(?:Xing|Info)...(.)", frame, re.DOTALL)
    return found is not None and bool(found[1][0] & 1)
