"""What every folder of `predictors/` keeps, so that it can be served, run locally, scaled from zero and documented.

Folders are found by their `service.toml`; a new predictor is tested by being there. No weights: where a model would have
to answer, the fake of its contract does.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI

import predictors
import serving.contracts
from serving import v2
from serving.auth import Keys
from serving.middleware import Drain
from serving.predictor import Predictor
from serving.routes import BodyBudget, JsonLimit, protocol_router
from serving.server import wrap
from serving.settings import PodSettings, PredictorSettings
from serving.testing import FAKES

ROOT = Path(predictors.__path__[0])
FOLDERS = sorted(file.parent.name for file in ROOT.glob("*/service.toml"))
HEAVY = {
    "ctranslate2", "faster_whisper", "lightgbm", "onnxruntime", "sherpa_onnx", "torch", "transformers", "vllm", "vosk",
    "whisper",
}  # fmt: skip


def contracts() -> dict[str, ModuleType]:
    """The modules of `serving.contracts` by the name that their requests carry; those without one are shared parts."""
    modules = [
        importlib.import_module(f"serving.contracts.{each.name}")
        for each in pkgutil.iter_modules(serving.contracts.__path__)
    ]
    return {module.NAME: module for module in modules if hasattr(module, "NAME")}


def service(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "service.toml").read_text())


def settings_class(folder: str) -> type[PredictorSettings]:
    module = importlib.import_module(f"predictors.{folder}.settings")
    own = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, PredictorSettings) and cls.__module__ == module.__name__
    ]
    assert len(own) == 1, "one settings class a predictor"
    return own[0]


def local_settings(folder: str, monkeypatch: pytest.MonkeyPatch) -> PredictorSettings:
    """The settings of `python -m serving.local`."""
    for name, value in service(folder).get("local", {}).get("env", {}).items():
        monkeypatch.setenv(name, value)
    return settings_class(folder).from_command_line(["--model_name", folder])


def test_there_are_predictors() -> None:
    assert {"kaldi_asr", "whisper"} <= set(FOLDERS)


def test_every_contract_has_a_fake() -> None:
    assert set(FAKES) == set(contracts())


each_folder = pytest.mark.parametrize("folder", FOLDERS)


@each_folder
def test_the_service_names_a_contract_and_a_transformer_that_exist(folder: str) -> None:
    described = service(folder)
    assert described["contract"] in contracts()
    assert importlib.util.find_spec(f"{described['transformer']}.__main__") is not None


@each_folder
def test_it_is_started_as_a_module(folder: str) -> None:
    module = importlib.import_module(f"predictors.{folder}.__main__")  # importing it starts nothing
    assert callable(module.main)


@each_folder
def test_it_has_a_model_card(folder: str) -> None:
    card = (ROOT / folder / "README.md").read_text()
    assert card.startswith("# ")
    for part in ("licen", "limit"):  # what it may be used for, and what it cannot do
        assert part in card.lower(), part


@each_folder
def test_every_setting_says_what_it_is(folder: str) -> None:
    cls = settings_class(folder)
    assert (cls.__doc__ or "") != (PredictorSettings.__doc__ or "")
    assert {name for name, field in cls.model_fields.items() if not field.description} == set()
    own = set(cls.model_fields) - set(PredictorSettings.model_fields)
    assert own, "a predictor has settings of its own: at least where its weights are"


@each_folder
def test_its_local_settings_are_settings(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    local = service(folder).get("local", {})
    transformer = importlib.import_module(f"{service(folder)['transformer']}.settings")
    known = {name for cls in vars(transformer).values() if inspect.isclass(cls) and issubclass(cls, PodSettings)
             for name in cls.model_fields}  # fmt: skip
    assert {name.lower() for name in local.get("env", {})} <= set(settings_class(folder).model_fields)
    assert {name.lower() for name in local.get("transformer_env", {})} <= known
    assert local_settings(folder, monkeypatch).model_name == folder


def backends() -> list[tuple[str, str]]:
    """Every predictor with every engine that its BACKEND names; without that setting it has one, here ""."""
    pairs = []
    for folder in FOLDERS:
        field = settings_class(folder).model_fields.get("backend")
        pairs += [(folder, name) for name in (get_args(field.annotation) if field else ("",))]
    return pairs


@pytest.mark.parametrize(("folder", "backend"), backends())
def test_its_engine_is_made_without_loading_a_library(folder: str, backend: str) -> None:
    """`/health` must answer, and a wrong setting must be told, before gigabytes of libraries are read."""
    cls = settings_class(folder)
    script = f"""
import sys
from {cls.__module__} import {cls.__name__}
from predictors.{folder}.model import engine
from serving.contracts import {contracts()[service(folder)["contract"]].__name__.rpartition(".")[2]} as contract
from serving.engine import ConcurrentEngine
made = engine({cls.__name__}(**{{"backend": {backend!r}}} if {backend!r} else {{}}))
assert all(callable(getattr(made, name)) for name in ("load", "close"))
if not isinstance(made, ConcurrentEngine):
    assert callable(made.run)
    hash(made.batch_key(contract.warm_up_item()))
print(*{{name.partition(".")[0] for name in sys.modules}} & {HEAVY!r})
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.split() == []


@pytest.fixture
async def client(folder: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """The predictor's pod in this process, with its own settings and the fake of its contract."""
    name = service(folder)["contract"]
    settings = local_settings(folder, monkeypatch)
    model: Predictor[Any, Any] = Predictor(contracts()[name], FAKES[name](), settings)
    await model.start_up()
    app = FastAPI()
    app.include_router(protocol_router(model, JsonLimit(1 << 20, 1 << 20), BodyBudget(1 << 30)))
    transport = httpx.ASGITransport(wrap(app, {}, Keys(), Drain(), settings.max_body_bytes))
    async with httpx.AsyncClient(transport=transport, base_url="http://pod") as http:
        yield http
    await model.shut_down()


@each_folder
async def test_it_answers_its_contract(folder: str, client: httpx.AsyncClient) -> None:
    contract = contracts()[service(folder)["contract"]]
    request = contract.write_request([contract.warm_up_item()], folder)
    parts, length = v2.encode(request)
    headers = {v2.JSON_LENGTH: str(length)}
    answer = await client.post(f"/v2/models/{folder}/infer", content=b"".join(parts), headers=headers)
    assert answer.status_code == 200
    response = v2.decode_response(answer.content, int(answer.headers[v2.JSON_LENGTH]))
    assert len(contract.read_response(response)) == 1
    for described, message in ((contract.input_types(), request), (contract.output_types(), response)):
        arrays = v2.tensors(message)
        ranks = {tensor["name"]: len(tensor["shape"]) for tensor in described}
        assert arrays
        assert ranks.items() >= {name: array.ndim for name, array in arrays.items()}.items()


@each_folder
async def test_it_says_which_contract_it_speaks(folder: str, client: httpx.AsyncClient) -> None:
    contract = contracts()[service(folder)["contract"]]
    request = contract.write_request([contract.warm_up_item()], folder)
    request.parameters["contract"] = "another/9"
    parts, length = v2.encode(request)
    headers = {v2.JSON_LENGTH: str(length)}
    answer = await client.post(f"/v2/models/{folder}/infer", content=b"".join(parts), headers=headers)
    assert answer.status_code == 400
    assert contract.NAME in answer.json()["error"]
