"""How long a recording is, against what its header says: cut-off files and headers that lie are refused, streams are not."""

import numpy as np
import pytest

from serving.errors import TooLarge, Unprocessable, UnsupportedMedia
from tests.unit.audio.limits import media_limits
from tests.unit.audio.media_files import Samples, decode, encode, pcm16, stored, tones, wav
from transformers_pre.audio.media import SAMPLE_RATE, DecoderPool

pytestmark = pytest.mark.asyncio(loop_scope="module")

TWO_GB = 2_000_000_000


@pytest.mark.parametrize(
    "declared",
    [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x80000000],
    ids=["zero", "ffmpeg", "openai", "sox", "signed", "signed and the header", "arecord"],
)
async def test_a_wav_that_was_streamed_has_no_size_and_is_read_to_its_end(
    media_pool: DecoderPool, declared: int
) -> None:
    samples = tones(SAMPLE_RATE, 1.0)
    decoded = await decode(media_pool, wav(pcm16(samples), declared=declared))
    np.testing.assert_allclose(decoded, samples[:, 0], atol=1e-4)


async def test_a_wav_of_no_samples_is_audio_of_no_length(media_pool: DecoderPool) -> None:
    assert len(await decode(media_pool, wav(b""))) == 0


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("wav", "pcm_s16le", {}),
        ("flac", "flac", {}),
        ("mp3", "libmp3lame", {}),
        ("ogg", "libopus", {}),
        ("webm", "libopus", {}),
        ("mp4", "aac", {}),
        ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
        ("aiff", "pcm_s16be", {}),
    ],
)
async def test_half_a_file_is_never_taken_for_a_whole_one(
    media_pool: DecoderPool, container: str, codec: str, options: dict[str, str]
) -> None:
    whole = encode(container, codec, 48_000, tones(48_000, 8.0), **options)
    assert len(await decode(media_pool, whole)) == pytest.approx(8 * SAMPLE_RATE, abs=0.05 * SAMPLE_RATE)
    with pytest.raises((Unprocessable, UnsupportedMedia)):
        await decode(media_pool, whole[: len(whole) // 2])


def lying_wav(part: bytes) -> bytes:
    """Two seconds of WAV in which one chunk, and with it the whole, claims to be 2 GB long."""
    plain = wav(bytes(64_000))
    file = bytearray(plain[:36] + b"LIST" + (4).to_bytes(4, "little") + b"INFO" + plain[36:])
    size = file.index(part) + 4
    file[size : size + 4] = TWO_GB.to_bytes(4, "little")
    file[4:8] = (TWO_GB + 36).to_bytes(4, "little")
    return bytes(file)


def lying_mp3() -> bytes:
    """Two seconds of MP3 whose first frame counts a million frames (Xing: the flags, then the number)."""
    file = bytearray(encode("mp3", "libmp3lame", 16_000, tones(16_000, 2.0)))
    tag = max(file.find(b"Xing"), file.find(b"Info"))
    file[tag + 8 : tag + 12] = (1_000_000).to_bytes(4, "big")
    return bytes(file)


def lying_id3() -> bytes:
    """An MP3 before which a tag claims to be 255 MB long, the most that it can."""
    return b"ID3\3\0\0" + b"\x7f\x7f\x7f\x7f" + encode("mp3", "libmp3lame", 16_000, tones(16_000, 2.0))


def lying_m4a(part: bytes, offset: int, value: int) -> bytes:
    """Two seconds of M4A in which a number of four bytes in a box is another one."""
    file = bytearray(encode("ipod", "aac", 16_000, tones(16_000, 2.0)))
    position = file.index(part) + offset
    file[position : position + 4] = value.to_bytes(4, "big")
    return bytes(file)


def lying_flac() -> bytes:
    """Two seconds of FLAC whose second block of metadata claims to be 16 MB long, the most that it can."""
    file = bytearray(encode("flac", "flac", 16_000, tones(16_000, 2.0)))
    file[43:46] = b"\xff\xff\xff"
    return bytes(file)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (lying_wav(b"data"), f"its header declares {TWO_GB} bytes of samples, 64000 are there"),
        (lying_wav(b"LIST"), f"its header declares {TWO_GB + 44} bytes, 64056 are there"),
        (wav(bytes(32_000))[:30], "its header declares 36 bytes, 30 are there"),
        (wav(b"", declared=32_000), "its header declares 32000 bytes of samples, 0 are there"),
        (lying_mp3(), "it should hold 35999.9 s of audio, 2."),
        (lying_id3(), "its header declares 268435465 bytes, "),
        (lying_m4a(b"mdat", -4, TWO_GB), f"its header declares {TWO_GB + 36} bytes, "),
        (lying_flac(), "its header declares 16777261 bytes, "),
    ],
    ids=[
        "WAV",
        "chunk of a WAV",
        "head of a WAV",
        "WAV without samples",
        "MP3",
        "tag of an MP3",
        "box of an M4A",
        "block of a FLAC",
    ],
)
async def test_headers_that_promise_more_than_there_is(media_pool: DecoderPool, data: bytes, told: str) -> None:
    with pytest.raises(Unprocessable, match="the file is cut off") as caught:
        await decode(media_pool, data)
    assert caught.value.code == "truncated_audio"
    assert told in caught.value.message


async def test_an_m4a_that_lies_about_its_samples(media_pool: DecoderPool) -> None:
    for table, offset in ((b"stsz", 12), (b"stsz", 16), (b"stco", 12)):  # how many, how large, where
        with pytest.raises(Unprocessable) as caught:
            await decode(media_pool, lying_m4a(table, offset, 1_000_000))
        assert caught.value.code == "no_audio_samples"


async def test_an_m4a_that_lies_about_its_duration_only_is_whole(media_pool: DecoderPool) -> None:
    for header in (b"mdhd", b"mvhd"):
        decoded = await decode(media_pool, lying_m4a(header, 20, 36_000 * 16_000))
        assert len(decoded) == pytest.approx(2 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


async def test_a_header_that_lies_about_ten_hours_is_not_believed(media_pool: DecoderPool) -> None:
    flac = bytearray(encode("flac", "flac", 16_000, tones(16_000, 2.0)))
    field = int.from_bytes(flac[21:26], "big")  # STREAMINFO: the low 36 bits here count the samples (RFC 9639, 8.2)
    flac[21:26] = (field >> 36 << 36 | 36_000 * 16_000).to_bytes(5, "big")
    with pytest.raises(Unprocessable, match=r"36000\.0 s of audio, 2\.0 s are there"):
        await decode(media_pool, bytes(flac))
    async with DecoderPool(media_limits(workers=1, max_audio_seconds=60)) as pool:
        with pytest.raises(
            TooLarge, match=r"longer than 60 s, .*\(MAX_AUDIO_SECONDS\): it has 36000\.0 s by its header"
        ):
            await decode(pool, bytes(flac))


async def test_a_flac_that_was_streamed_is_read_to_its_end(media_pool: DecoderPool) -> None:
    flac = bytearray(encode("flac", "flac", 16_000, tones(16_000, 5.0)))
    field = int.from_bytes(flac[21:26], "big")
    flac[21:26] = (field >> 36 << 36).to_bytes(5, "big")  # no samples: not known
    assert len(await decode(media_pool, bytes(flac))) == 5 * SAMPLE_RATE


async def test_the_limit_counts_samples_where_no_header_tells() -> None:
    raw = encode("adts", "aac", 16_000, tones(16_000, 9.0))
    blocks: list[Samples] = []

    async def read(pool: DecoderPool) -> None:
        with stored(raw) as file:
            async with pool.open(file) as audio:
                async for block in audio:
                    blocks.append(block)  # noqa: PERF401  # what came before the error counts

    async with DecoderPool(media_limits(workers=1, max_audio_seconds=5)) as pool:
        with pytest.raises(TooLarge, match="longer than 5 s"):
            await read(pool)
        assert 3 * SAMPLE_RATE < sum(len(block) for block in blocks) <= 5 * SAMPLE_RATE
        exact = wav(bytes(2 * 5 * SAMPLE_RATE))
        assert len(await decode(pool, exact)) == 5 * SAMPLE_RATE
