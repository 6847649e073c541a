"""Settings: flags over environment over default, KServe's flags accepted, and one clear line for what does not fit."""

import pytest
from kserve.model_server import parser as kserve_parser

from serving.settings import PodSettings, PredictorSettings, TransformerSettings

CLASSES = [PodSettings, PredictorSettings, TransformerSettings]


def refusal(*argv: str, cls: type[PodSettings] = PredictorSettings) -> str:
    """The one line that a start with these flags ends with."""
    with pytest.raises(SystemExit) as caught:
        cls.from_command_line(argv)
    assert isinstance(caught.value.code, str), "argparse ended it, not us"
    assert "\n" not in caught.value.code
    return caught.value.code


def test_flag_beats_environment_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PredictorSettings.from_command_line([]).max_batch_size == 8
    monkeypatch.setenv("MAX_BATCH_SIZE", "3")
    assert PredictorSettings.from_command_line([]).max_batch_size == 3
    assert PredictorSettings.from_command_line(["--max_batch_size", "5"]).max_batch_size == 5
    assert PredictorSettings.from_command_line(["--max_batch_size=6"]).max_batch_size == 6


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a chart renders for a value that was left out."""
    monkeypatch.setenv("MAX_BATCH_SIZE", "")
    monkeypatch.setenv("API_KEYS_FILE", "")
    settings = PredictorSettings.from_command_line([])
    assert (settings.max_batch_size, settings.api_keys_file) == (8, None)


def test_variables_are_found_in_any_case_and_unknown_ones_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("max_queue", "9")
    monkeypatch.setenv("MAX_QUEUES", "nonsense")
    assert PredictorSettings.from_command_line([]).max_queue == 9


BAD = {
    "HTTP_PORT": ["abc", "-1", "65536", "80.5"],
    "GRPC_PORT": ["65536"],
    "ENABLE_GRPC": ["perhaps"],
    "MAX_BODY_BYTES": ["0", "-5", "1GB"],
    "GRPC_MAX_MESSAGE_BYTES": ["0", "2147483648"],
    "MAX_WEBSOCKET_MESSAGE_BYTES": ["0", "16MB"],
    "GRACE_SECONDS": ["0", "-1", "soon"],
    "LOG_LEVEL": ["LOUD", "info"],
    "MAX_BATCH_SIZE": ["0"],
    "MAX_BATCH_WAIT_MS": ["-1"],
    "MAX_QUEUE": ["0"],
    "REQUEST_TIMEOUT_SECONDS": ["0", "inf", "nan"],
    "PREDICTOR_HOST": ["http://predictor:80", "a b", "predictor:", "[::1"],
    "HOP_CONCURRENCY": ["0"],
    "HOP_CONNECTIONS": ["0"],
    "PREDICTOR_USE_SSL": ["2"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_one_line_with_its_name_and_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    cls = PredictorSettings if name.lower() in PredictorSettings.model_fields else TransformerSettings
    by_flag = refusal(f"--{name.lower()}={value}", cls=cls)
    monkeypatch.setenv(name, value)
    by_variable = refusal(cls=cls)
    assert by_flag == by_variable
    assert by_flag.startswith(f"{name}: ")
    assert by_flag.endswith(f"(got {value!r})")


@pytest.mark.parametrize(
    "host", ["predictor", "whisper-predictor.models.svc.cluster.local:8080", "10.0.0.1:80", "[::1]:80"]
)
def test_hosts_of_predictors(host: str) -> None:
    assert TransformerSettings.from_command_line([f"--predictor_host={host}"]).predictor_host == host


def test_settings_that_do_not_fit_together_are_named_and_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "topsecret")
    assert refusal("--http_port=9000", "--grpc_port=9000") == "HTTP_PORT and GRPC_PORT are both 9000"
    assert "topsecret" not in repr(PodSettings.from_command_line([]))


@pytest.mark.parametrize("flag", ["--workers=2", "--workers=0"])
def test_more_than_one_worker_is_refused(flag: str) -> None:
    assert "scale with replicas" in refusal(flag)


def test_one_worker_is_fine() -> None:
    assert PodSettings.from_command_line(["--workers", "1"]).model_name == "model"


@pytest.mark.parametrize("flag", ["--max_batchsize", "--max_batch_siz=3", "--http-port=1"])
def test_an_unknown_or_shortened_flag_is_refused_by_name(flag: str) -> None:
    assert refusal(flag, "7") == f"unknown flag {flag.partition('=')[0]}"


def test_flags_that_only_kserve_knows_are_accepted_and_ignored() -> None:
    theirs = {
        flag
        for action in kserve_parser._actions
        for flag in action.option_strings
        if flag.startswith("--") and flag not in ("--help", "--workers")
    }
    ours = {f"--{name}" for name in TransformerSettings.model_fields}
    assert len(theirs - ours) > 10
    for flag in theirs - ours:
        assert TransformerSettings.from_command_line([flag, "7"]) == TransformerSettings()
        assert TransformerSettings.from_command_line([f"{flag}=7"]) == TransformerSettings()


def test_what_the_controller_passes_to_a_transformer() -> None:
    settings = TransformerSettings.from_command_line(
        ["--model_name", "whisper", "--http_port", "8080", "--predictor_host", "whisper-predictor.default",
         "--predictor_protocol", "v2", "--predictor_use_ssl", "true", "--workers", "1"]
    )  # fmt: skip
    assert (settings.model_name, settings.predictor_host) == ("whisper", "whisper-predictor.default")
    assert settings.predictor_use_ssl


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_says_what_it_is(cls: type[PodSettings], capsys: pytest.CaptureFixture[str]) -> None:
    assert {name for name, field in cls.model_fields.items() if not field.description} == set()
    with pytest.raises(SystemExit) as caught:
        cls.from_command_line(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in cls.model_fields)
