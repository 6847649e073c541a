"""What the server does to KServe's app: whose routes stay, what uvicorn is told. How a pod runs is in `tests/integration`."""

import asyncio
import socket
import tomllib
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from kserve.model_repository import ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints

from serving import VERSION, hop
from serving.server import KEEP_ALIVE_SECONDS, Server, _drop_replaced, configuration
from serving.settings import PodSettings
from tests.servers import until


@pytest.mark.parametrize("included", [True, False], ids=["a router's route", "the app's own route"])
async def test_ours_replace_kserves_in_the_description_too(included: bool) -> None:
    app, repository = FastAPI(), ModelRepository()
    router = APIRouter()

    @(router if included else app).get("/v1/models", summary="Ours")
    async def models() -> str:
        return "ours"

    app.include_router(router)
    extension = ModelRepositoryExtension(repository)
    register_v1_endpoints(app, DataPlane(repository), extension)
    register_v2_endpoints(app, DataPlane(repository), extension)
    _drop_replaced(app)
    assert app.openapi()["paths"]["/v1/models"]["get"]["summary"] == "Ours"
    assert set(app.openapi()["paths"]) == {
        "/v1/models", "/v1/models/{model_name}", "/v2/health/live", "/v2/models", "/v2/models/{model_name}",
    }  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pod") as client:
        assert (await client.get("/v1/models")).json() == "ours"
        assert (await client.post("/v2/repository/models/m/unload")).status_code == 404


def test_a_pod_keeps_connections_well_beyond_the_time_that_a_hop_uses_them_again() -> None:
    """Or it would close one that a request is just being sent on, and that request were lost."""
    assert configuration(FastAPI(), PodSettings()).timeout_keep_alive == KEEP_ALIVE_SECONDS
    assert KEEP_ALIVE_SECONDS >= 2 * hop.IDLE_SECONDS


def test_the_limit_of_websocket_messages_is_a_setting() -> None:
    settings = PodSettings(max_websocket_message_bytes=1000)
    assert configuration(FastAPI(), settings).ws_max_size == 1000


def test_a_client_whose_pong_comes_late_is_not_cut_off() -> None:
    """It comes behind what the client sent and nobody reads while the model is slow."""
    assert configuration(FastAPI(), PodSettings()).ws_ping_timeout is None


async def test_a_pod_that_stops_waits_for_a_clients_answer_to_the_close() -> None:
    """Its last words may not have been read: a reset, for what the client sends meanwhile, would take them from it."""
    app = FastAPI()

    @app.websocket("/")
    async def goodbye(client: WebSocket) -> None:
        await client.accept()
        await client.send_text("last words")
        await client.close(1012)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(configuration(app, PodSettings()))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        head = "GET / HTTP/1.1\r\nHost: pod\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"\x88\x02\x03\xf4"), 10)  # the close frame, code 1012
        server.should_exit = True
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(), 0.5)
        writer.write(b"\x88\x82\0\0\0\0\x03\xf4")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await asyncio.wait_for(serving, 10)


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
