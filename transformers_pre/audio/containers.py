"""What a media file's container tells before it is decoded, and how far it can be believed.

FFmpeg plays what is there and clamps or guesses the rest; a transcript that silently lacks the second half of a recording
is worse than a refusal. So files that were cut off are found here: by their declared size (WAV), by an unfinished last page
(Ogg), or by a declared duration that decoding does not reach (the containers whose duration is a statement, no estimate).
Raw streams (ADTS, AC-3, AMR, MP3 without a Xing frame) say nothing to hold them to. No decoding here.
"""

import os
import re
from typing import Final

import av
import av.container
import av.stream

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
_RIFF_CHUNKS = 1000  # far more than any writer makes before the samples
_RIFF_SLACK_BYTES = 1024  # a pad byte or a miscounted tail is no lost speech
_RIFF_STREAMED = 0xFFFF_FF00  # from here on: not known when the header was written (FFmpeg, OpenAI's speech)
_SOX_STREAMED = range(0x7FFF_0000, 0x7FFF_F001)  # the same by SoX: 0x7ffff000 rounded down to whole frames (its wav.c)
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # the longest page: header, segment table, segments (RFC 3533, 6)


class RefusedError(Exception):
    """A file that is not decoded; the fields become `wire.Refusal`."""

    def __init__(self, status: int, code: str, message: str, *, fatal: bool = False):
        super().__init__(message)
        self.status = status
        self.code = code
        self.fatal = fatal


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
        """At most `size` bytes from `position`."""
        return os.pread(self._descriptor, size, position)


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


def _cut_off(held: int, declared: int) -> RefusedError:
    return RefusedError(
        422,
        "truncated_audio",
        f"the file is cut off: its header declares {declared} bytes of samples, {held} are there; send the whole file",
    )


def _check_riff_data(file: MediaFile) -> bool:
    """Whether a WAV's header gives the size of its samples; raises RefusedError when they are not all there."""
    long_size = None
    position = 12
    for _ in range(_RIFF_CHUNKS):
        head = file.at(position, 8)
        if len(head) < 8:
            return False
        size = int.from_bytes(head[4:], "little")
        position += 8
        if head[:4] == b"ds64":  # RF64 (EBU Tech 3306): the 64-bit sizes, that of the samples is the second
            long_size = int.from_bytes(file.at(position + 8, 8), "little")
        if head[:4] == b"data":
            if size == 0xFFFF_FFFF and long_size is not None:
                size = long_size
            elif size == 0 or size >= _RIFF_STREAMED or size in _SOX_STREAMED:
                return False
            held = max(0, file.size - position)
            if held < size - _RIFF_SLACK_BYTES or (not held and size):
                raise _cut_off(held, size)
            return True
        position += size + size % 2
    return False


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
    head = file.at(0, 10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:  # its size has seven bits a byte (ID3v2.4, 3.1)
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    frame = file.at(start, 256)
    found = re.search(b"(?:Xing|Info)...(.)", frame, re.DOTALL)
    return found is not None and bool(found[1][0] & 1)
