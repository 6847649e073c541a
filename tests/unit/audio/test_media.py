"""What comes out of the decoders: the right samples for every kind of file, and a clear refusal for every other.

How long a file is, and what its header says of that, is in `test_media_lengths`.
"""

import librosa
import numpy as np
import pytest

from serving.errors import InvalidInput, ServingError, TooLarge, Unprocessable, UnsupportedMedia
from tests.unit.audio.media_files import Samples, decode, encode, id3_picture, stored, tones, video, wav
from transformers_pre.audio.media import SAMPLE_RATE, DecoderPool

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = b"<!doctype html><html><head><title>404</title></head><body>" + b"<p>not found</p>" * 300


def reference(samples: Samples, rate: int) -> Samples:
    """The whole recording at once: the mean of its channels, resampled by librosa."""
    return librosa.resample(samples.mean(axis=1), orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")


@pytest.mark.parametrize(
    ("container", "codec", "rate", "channels", "tolerance"),
    [
        ("wav", "pcm_s16le", 8_000, 1, 1e-4),
        ("wav", "pcm_s16le", 11_025, 1, 1e-4),
        ("wav", "pcm_s16le", 22_050, 2, 1e-4),
        ("wav", "pcm_s16le", 44_100, 2, 1e-4),
        ("wav", "pcm_s24le", 48_000, 2, 1e-4),
        ("wav", "pcm_s32le", 96_000, 2, 1e-4),
        ("wav", "pcm_f32le", 44_100, 2, 1e-4),
        ("wav", "pcm_f64le", 44_100, 1, 1e-4),
        ("wav", "pcm_s16le", 44_100, 6, 1e-4),
        ("wav", "pcm_u8", 16_000, 1, 1e-2),
        ("wav", "pcm_mulaw", 8_000, 1, 4e-2),
        ("flac", "flac", 44_100, 2, 1e-4),
        ("ipod", "alac", 44_100, 2, 1e-4),
        ("aiff", "pcm_s16be", 44_100, 2, 1e-4),
        ("au", "pcm_s16be", 44_100, 1, 1e-4),
        ("caf", "pcm_s16le", 48_000, 2, 1e-4),
        ("w64", "pcm_s16le", 48_000, 1, 1e-4),
        ("wv", "wavpack", 44_100, 2, 1e-2),  # the encoder takes 8 bits
    ],
)
async def test_lossless_formats_equal_librosa(
    media_pool: DecoderPool, container: str, codec: str, *, rate: int, channels: int, tolerance: float
) -> None:
    samples = tones(rate, 3.7, channels)
    decoded = await decode(media_pool, encode(container, codec, rate, samples))
    expected = reference(samples, rate)
    assert abs(len(decoded) - round(len(samples) * SAMPLE_RATE / rate)) <= 2
    shared = min(len(decoded), len(expected))
    np.testing.assert_allclose(decoded[:shared], expected[:shared], atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("container", "codec", "rate", "channels", "bit_rate"),
    [
        ("mp3", "libmp3lame", 44_100, 2, 128_000),
        ("mp3", "libmp3lame", 16_000, 1, 32_000),
        ("ogg", "libopus", 48_000, 2, 64_000),
        ("webm", "libopus", 48_000, 1, 32_000),
        ("mp4", "aac", 44_100, 2, 128_000),
        ("matroska", "aac", 48_000, 2, 128_000),
    ],
)
async def test_lossy_formats_sound_the_same_at_the_same_time(
    media_pool: DecoderPool, container: str, codec: str, *, rate: int, channels: int, bit_rate: int
) -> None:
    samples = tones(rate, 4.0, channels)
    decoded = await decode(media_pool, encode(container, codec, rate, samples, bit_rate=bit_rate))
    expected = reference(samples, rate)
    assert len(decoded) == pytest.approx(len(expected), abs=0.05 * SAMPLE_RATE)
    lags = range(-200, 201)  # samples: 12.5 ms either way
    middle = expected[SAMPLE_RATE : 3 * SAMPLE_RATE]
    likeness = [np.corrcoef(middle, decoded[SAMPLE_RATE + lag : 3 * SAMPLE_RATE + lag])[0, 1] for lag in lags]
    best = int(np.argmax(likeness))
    assert likeness[best] > 0.95
    assert abs(lags[best]) <= 2


@pytest.mark.parametrize(("container", "rate"), [("adts", 44_100), ("mpegts", 48_000)])
async def test_raw_streams_are_read_whole(media_pool: DecoderPool, container: str, rate: int) -> None:
    decoded = await decode(media_pool, encode(container, "aac", rate, tones(rate, 4.0)))
    assert len(decoded) == pytest.approx(4 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)  # encoder delay, last frame
    assert np.abs(decoded).max() > 0.2


async def test_amr_of_old_telephones_is_read(media_pool: DecoderPool) -> None:
    bits = np.random.default_rng(0)  # no encoder is at hand; any bits make a sound
    frames = b"".join(b"\x3c" + bits.bytes(31) for _ in range(200))  # 20 ms each at 12.2 kbit/s (RFC 4867, 5.3)
    decoded = await decode(media_pool, b"#!AMR\n" + frames)
    assert len(decoded) == 4 * SAMPLE_RATE
    assert decoded.any()


async def test_16_khz_pcm_passes_bit_exact(media_pool: DecoderPool) -> None:
    whole = np.random.default_rng(0).integers(-32768, 32768, size=(50_001, 2), dtype=np.int16)
    mono = await decode(media_pool, wav(whole[:, 0].tobytes()))
    np.testing.assert_array_equal(mono, whole[:, 0] / np.float32(32768))
    stereo = wav(whole.tobytes(), channels=2)
    np.testing.assert_array_equal(await decode(media_pool, stereo), whole.mean(axis=1) / 32768)
    np.testing.assert_array_equal(await decode(media_pool, stereo, channel=1), whole[:, 1] / np.float32(32768))


async def test_blocks_are_about_a_second(media_pool: DecoderPool) -> None:
    with stored(encode("wav", "pcm_s16le", 44_100, tones(44_100, 5.0, 2))) as file:
        async with media_pool.open(file) as audio:
            assert audio.channels == 2
            blocks = [block async for block in audio]
            assert [block async for block in audio] == []
    assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
    assert max(len(block) for block in blocks) < 1.5 * SAMPLE_RATE
    assert sum(len(block) for block in blocks) == 5 * SAMPLE_RATE


async def test_the_position_of_a_file_plays_no_part(media_pool: DecoderPool) -> None:
    with stored(wav(bytes(3_200))) as file:
        for position in (0, 100, 10_000):
            file.seek(position)
            async with media_pool.open(file) as audio:
                assert sum([len(block) async for block in audio]) == 1_600
            assert file.tell() == position


async def test_a_format_that_changes_midway_is_followed(media_pool: DecoderPool) -> None:
    first = encode("adts", "aac", 44_100, tones(44_100, 2.0, 2))
    second = encode("adts", "aac", 24_000, tones(24_000, 2.0, 1))
    decoded = await decode(media_pool, first + second)
    assert len(decoded) == pytest.approx(4 * SAMPLE_RATE, abs=0.25 * SAMPLE_RATE)
    alone = await decode(media_pool, second)
    assert np.corrcoef(decoded[-SAMPLE_RATE:], alone[-SAMPLE_RATE:])[0, 1] > 0.95


async def test_audio_of_a_video_keeps_the_films_clock(media_pool: DecoderPool) -> None:
    samples = tones(SAMPLE_RATE, 2.0)
    decoded = await decode(media_pool, video(3.0, audio={"late": (samples, 0.5)}))
    assert len(decoded) == pytest.approx(2.5 * SAMPLE_RATE, abs=0.01 * SAMPLE_RATE)
    late = len(decoded) - len(samples)
    assert not decoded[:late].any()
    np.testing.assert_allclose(decoded[late:], samples[:, 0], atol=1e-4)


async def test_the_default_audio_track_is_taken(media_pool: DecoderPool) -> None:
    first, second = tones(SAMPLE_RATE, 1.0, 2).T[:, :, None]
    film = video(1.0, audio={"comment": (first, 0.0), "speech": (second, 0.0)}, default="speech")
    np.testing.assert_allclose(await decode(media_pool, film), second[:, 0], atol=1e-4)


async def test_a_cover_picture_and_leading_rubbish_are_ignored(media_pool: DecoderPool) -> None:
    song = encode("mp3", "libmp3lame", 16_000, tones(16_000, 2.0))
    alone = await decode(media_pool, song)
    np.testing.assert_array_equal(await decode(media_pool, id3_picture(100_000) + song), alone)
    assert len(await decode(media_pool, bytes(700) + song)) == pytest.approx(len(alone), abs=0.2 * SAMPLE_RATE)


async def test_tags_in_any_encoding_are_no_obstacle(media_pool: DecoderPool) -> None:
    title = "Запись".encode("cp1251") + bytes(2)
    tags = b"INFOINAM" + len(title).to_bytes(4, "little") + title
    plain = wav(bytes(3_200))
    tagged = plain[:36] + b"LIST" + len(tags).to_bytes(4, "little") + tags + plain[36:]
    assert len(await decode(media_pool, tagged)) == 1_600


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        (b"this is a text that somebody named .mp3\n" * 300, UnsupportedMedia, "unsupported_audio"),
        (PAGE, UnsupportedMedia, "unsupported_audio"),
        (np.random.default_rng(1).bytes(300_000), UnsupportedMedia, "unsupported_audio"),
        (bytes(50_000), UnsupportedMedia, "unsupported_audio"),
        (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1/a.ts\n#EXT-X-ENDLIST\n",
            UnsupportedMedia,
            None,
        ),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", UnsupportedMedia, "unsupported_audio"),
        (video(1.0), Unprocessable, "no_audio_stream"),
        (wav(bytes(3_200), channels=33), TooLarge, "too_many_channels"),
        (wav(bytes(32_000), channels=65_535), ServingError, None),
        (wav(bytes(32_000), rate=1), Unprocessable, "sample_rate"),
        (wav(bytes(32_000), rate=0), UnsupportedMedia, "unsupported_audio"),
        (wav(np.full(16_000, np.nan, "<f4").tobytes(), bits=32, kind=3), Unprocessable, "corrupt_audio"),
        (wav(np.full(16_000, np.inf, "<f4").tobytes(), bits=32, kind=3), Unprocessable, "corrupt_audio"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_no_audio_is_refused(
    media_pool: DecoderPool, data: bytes, error: type[ServingError], code: str | None
) -> None:
    with pytest.raises(error) as caught:
        await decode(media_pool, data)
    assert 400 <= caught.value.http_status < 500
    assert code is None or caught.value.code == code
    assert not {"/", "<none>", "av."} & set(caught.value.message.split())
    assert len(await decode(media_pool, wav(bytes(3_200)))) == 1_600  # the worker goes on


async def test_a_channel_that_is_not_there(media_pool: DecoderPool) -> None:
    with pytest.raises(InvalidInput, match="channels 0 to 1"):
        await decode(media_pool, wav(bytes(6_400), channels=2), channel=2)


async def test_few_damaged_packets_are_left_out_and_many_are_refused(
    media_pool: DecoderPool, caplog: pytest.LogCaptureFixture
) -> None:
    samples = tones(44_100, 10.0)
    file = bytearray(encode("ipod", "alac", 44_100, samples))
    middle = len(file) // 2
    file[middle : middle + 10_000] = bytes(10_000)
    decoded = await decode(media_pool, bytes(file))
    (told,) = caplog.records
    assert 0 < vars(told)["corrupt_packets"] <= 3
    assert len(decoded) == pytest.approx(10 * SAMPLE_RATE, abs=2)  # the hole is silence, what follows is in time
    expected = reference(samples, 44_100)
    np.testing.assert_allclose(decoded[-3 * SAMPLE_RATE :], expected[-3 * SAMPLE_RATE :], atol=2e-4)
    for position in range(len(file) // 10, len(file) * 9 // 10, 3_000):
        file[position : position + 100] = bytes(100)
    with pytest.raises(Unprocessable) as caught:
        await decode(media_pool, bytes(file))
    assert caught.value.code == "corrupt_audio"
