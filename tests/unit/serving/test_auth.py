"""API keys: several, from a setting and a file that is swapped under us, compared in constant time."""

import hmac
import os
from pathlib import Path
from unittest import mock

import pytest

from serving.auth import Keys
from serving.errors import Unauthorized


def opens(keys: Keys, authorization: str | None) -> bool:
    try:
        keys.check(authorization)
    except Unauthorized:
        return False
    return True


def test_without_keys_everything_is_open() -> None:
    assert opens(Keys(), None)
    assert opens(Keys(), "Bearer anything")


@pytest.mark.parametrize(
    "authorization", ["Bearer one", "Bearer two", "bearer two", "BEARER  two ", "Bearer t h r e e"]
)
def test_each_of_several_keys_opens(authorization: str) -> None:
    assert opens(Keys("one, two ,t h r e e,"), authorization)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "one", "Basic one", "Bearer on", "Bearer onee", "Bearer ONE", "Bearer one,two"],
)
def test_anything_else_does_not(authorization: str | None) -> None:
    assert not opens(Keys("one,two"), authorization)


def test_the_refusal_says_what_to_send_and_never_a_key() -> None:
    with pytest.raises(Unauthorized, match="Authorization: Bearer <key>") as missing:
        Keys("sesame").check(None)
    with pytest.raises(Unauthorized, match="not known") as wrong:
        Keys("sesame").check("Bearer guess")
    assert (missing.value.code, wrong.value.code) == ("missing_api_key", "invalid_api_key")
    assert "sesame" not in f"{missing.value}{wrong.value}{vars(Keys('sesame'))}"


def test_every_key_is_compared_in_constant_time() -> None:
    with mock.patch("serving.auth.hmac.compare_digest", wraps=hmac.compare_digest) as compare:
        assert opens(Keys("one,two,three"), "Bearer one")
        assert not opens(Keys("one,two,three"), "Bearer four")
    assert compare.call_count == 6
    assert {len(value) for call in compare.call_args_list for value in call.args} == {32}


def rewrite(file: Path, text: str | bytes, stamp: int) -> None:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(file, ns=(stamp, stamp))


def test_a_file_adds_keys_and_may_be_rotated(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    rewrite(file, "# rotated monthly\nold\n\n", 1)
    keys = Keys("fixed", file)
    assert [opens(keys, f"Bearer {key}") for key in ("fixed", "old", "new", "# rotated monthly")] == [
        True, True, False, False,
    ]  # fmt: skip
    rewrite(file, "new\n", 2)
    assert [opens(keys, f"Bearer {key}") for key in ("fixed", "old", "new")] == [True, False, True]


def test_a_secret_swapped_by_symlink_is_read_anew(tmp_path: Path) -> None:
    """How a kubelet updates a mounted Secret: a new folder, then the link is renamed over the old one."""
    for name, key, stamp in (("first", "old", 1), ("second", "new", 2)):
        (tmp_path / name).mkdir()
        rewrite(tmp_path / name / "keys", key, stamp)
    (tmp_path / "data").symlink_to("first")
    keys = Keys(file=tmp_path / "data" / "keys")
    assert opens(keys, "Bearer old")
    (tmp_path / "swap").symlink_to("second")
    (tmp_path / "swap").replace(tmp_path / "data")
    assert not opens(keys, "Bearer old")
    assert opens(keys, "Bearer new")


@pytest.mark.parametrize("change", ["removed", "garbage"])
def test_the_last_keys_stay_in_force_while_the_file_cannot_be_read(tmp_path: Path, change: str) -> None:
    file = tmp_path / "keys"
    rewrite(file, "old\n", 1)
    keys = Keys(file=file)
    if change == "removed":
        file.unlink()
    else:
        rewrite(file, b"\xff\xfe\x00", 2)
    assert opens(keys, "Bearer old")
    assert not opens(keys, None)


def test_an_empty_file_opens_to_nobody(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\n# none yet\n")
    assert not opens(Keys(file=file), None)
    assert not opens(Keys(file=file), "Bearer ")


@pytest.mark.parametrize("keys", [",", " ", " , ,"])
def test_a_setting_without_any_key_stops_the_start(keys: str) -> None:
    with pytest.raises(ValueError, match="API_KEYS is set and holds no key"):
        Keys(keys)


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"API_KEYS_FILE cannot be read: No such file"):
        Keys(file=tmp_path / "missing")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"API_KEYS_FILE cannot be read: it is not UTF-8"):
        Keys(file=binary)
