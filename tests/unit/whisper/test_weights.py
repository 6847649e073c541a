"""MODEL_ID to folders and checkpoints, the cache that they are made in, and one sentence for what cannot be used."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from predictors.whisper import checkpoint, demo_weights, weights
from serving import cache
from tests.unit.whisper import tiny


@pytest.fixture(autouse=True)
def _cache_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_cached_folder_is_filled_once(tmp_path: Path) -> None:
    filled: list[Path] = []

    def fill(target: Path) -> None:
        filled.append(target)
        (target / "a").write_text("1")

    first = cache.folder("thing", fill)
    assert cache.folder("thing", fill) == first
    assert (first / "a").read_text() == "1"
    assert len(filled) == 1
    assert [path.name for path in first.parent.iterdir()] == ["thing"]


def test_a_folder_that_could_not_be_filled_does_not_appear() -> None:
    def fill(target: Path) -> None:
        (target / "half").write_text("1")
        raise ValueError("the other half is missing")

    with pytest.raises(ValueError, match="the other half"):
        cache.folder("thing", fill)
    assert cache.folder("thing", lambda target: None).exists()
    assert not (cache.folder("thing", fill) / "half").exists()


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="set XDG_CACHE_HOME"):
        cache.folder("thing", lambda target: None)


def _fill_when_all_are_here(
    barrier: "multiprocessing.synchronize.Barrier", results: "multiprocessing.Queue[str]"
) -> None:
    def fill(target: Path) -> None:
        (target / "a").write_text("x" * 1000)
        barrier.wait()  # every process is inside `fill`: all but one will lose

    results.put((cache.folder("thing", fill) / "a").read_text())


def test_processes_that_start_together_all_get_the_folder() -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_fill_when_all_are_here, args=(barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == ["x" * 1000] * 3
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_the_demo_weights_are_joined_and_locked() -> None:
    folder = weights.for_ctranslate2("demo:whisper-base")
    assert {file.name for file in folder.iterdir()} == {"model.bin", "config.json", "tokenizer.json", "vocabulary.txt"}
    assert (folder / "model.bin").stat().st_size == demo_weights.SIZE
    os.truncate(folder / "model.bin", 1000)
    with pytest.raises(ValueError, match="damaged"):
        weights.for_ctranslate2("demo:whisper-base")


def test_packages_with_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, package in enumerate(demo_weights.PACKAGES, start=1):
        data = tmp_path / package / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").write_text("")
        (data / f"model.bin.part{number}").write_bytes(b"other")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k not in demo_weights.PACKAGES})
    with pytest.raises(ValueError, match="other data than expected"):
        weights.for_ctranslate2("demo:whisper-base")


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_weights, "PACKAGES", ("no_such_part1", "no_such_part2"))
    with pytest.raises(ValueError, match=r"no-such-part1==1\.0\.0"):
        weights.for_ctranslate2("demo:whisper-base")


@pytest.mark.parametrize("find", [weights.for_ctranslate2, weights.for_openai_whisper])
@pytest.mark.parametrize("model_id", ["/no/such/folder", "./models", "demo:whisper-large"])
def test_a_place_that_does_not_exist_is_not_downloaded(find: object, model_id: str) -> None:
    assert callable(find)
    with pytest.raises(ValueError, match="does not exist"):
        find(model_id)


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    for name in ("model.bin", "tokenizer.json"):
        (tmp_path / name).write_text("")
    assert weights.for_ctranslate2(str(tmp_path)) == tmp_path


def test_what_a_folder_lacks_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no model\.bin and no tokenizer\.json$"):
        weights.for_ctranslate2(str(tmp_path))
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"has no model\.bin; it is a Hugging Face model: convert it with"):
        weights.for_ctranslate2(str(tmp_path))


def test_an_official_size_is_left_to_openai_whisper() -> None:
    assert weights.for_openai_whisper("medium") == weights.Checkpoint("medium")
    with pytest.raises(ValueError, match=r"mediumm is no size .* large-v3"):
        weights.for_openai_whisper("mediumm")


def test_a_checkpoint_alone_or_in_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "base.pt"
    file.write_text("")
    assert (
        weights.for_openai_whisper(str(file))
        == weights.for_openai_whisper(str(tmp_path))
        == weights.Checkpoint(str(file))
    )
    (tmp_path / "small.pt").write_text("")
    with pytest.raises(ValueError, match=r"has 2 files \*\.pt"):
        weights.for_openai_whisper(str(tmp_path))


def test_a_ctranslate2_folder_is_converted_once_for_each_state(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tiny.write_ctranslate2(source, tiny.ctranslate2_variables(tiny.openai_state()))
    found = weights.for_openai_whisper(str(source))
    assert found.alignment_heads == tiny.ALIGNMENT_HEADS
    assert weights.for_openai_whisper(str(source)) == found
    os.utime(source / "model.bin", ns=(1, 1))
    assert weights.for_openai_whisper(str(source)) != found
    assert Path(found.name).name == checkpoint.MODEL


@pytest.mark.parametrize("config", [{}, {"alignment_heads": [[0, 1], [7, 0]]}], ids=["none", "another model's"])
def test_a_ctranslate2_folder_without_heads_of_its_own_gets_them(tmp_path: Path, config: Any) -> None:
    source = tmp_path / "source"
    tiny.write_ctranslate2(source, tiny.ctranslate2_variables(tiny.openai_state()))
    assert weights.with_alignment_heads(source) == source
    (source / "config.json").write_text(json.dumps({"lang_ids": [1], **config}))
    found = weights.with_alignment_heads(source)
    assert found != source
    assert (found / "model.bin").samefile(source / "model.bin")
    said = json.loads((found / "config.json").read_text())
    assert said == {"alignment_heads": [[0, 0], [0, 1]], "lang_ids": [1]}
    assert weights.with_alignment_heads(source) == found


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_damaged_file_is_left_to_ctranslate2(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    (tmp_path / "config.json").write_text('{"lang_ids": [1]}')
    assert weights.with_alignment_heads(tmp_path) == tmp_path


@pytest.mark.parametrize("config", ["", "{}", "[]", "{", None])
def test_a_folder_without_a_configuration_is_left_to_ctranslate2(tmp_path: Path, config: str | None) -> None:
    """It wants more of it than the heads."""
    tiny.write_ctranslate2(tmp_path, tiny.ctranslate2_variables(tiny.openai_state()))
    (tmp_path / "config.json").unlink()
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert weights.with_alignment_heads(tmp_path) == tmp_path


@pytest.mark.parametrize("find", ["for_ctranslate2", "for_openai_whisper"])
def test_a_download_that_fails_is_one_sentence(find: str) -> None:
    """The hub is a closed port of this machine; the hub's client reads its address when it is imported."""
    script = f"""
from predictors.whisper import weights
try:
    weights.{find}("someone/whisper")
except ValueError as error:
    print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MODEL_ID=someone/whisper: the weights cannot be downloaded: ")
    assert done.stdout.count("\n") == 1
