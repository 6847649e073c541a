"""Every answer names the revisions that worked on it, over the hop too, and nothing that is no revision's name."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from serving import served_by
from serving.auth import Keys
from serving.deadline import Deadline
from serving.errors import InvalidInput
from serving.middleware import Drain
from serving.server import wrap
from tests.hops import Scripted, client, ok, predictor, refused, request
from tests.servers import ServeApp


def transformer(*predictors: int, revision: str) -> FastAPI:
    """An app that asks the predictors on these ports at once, in tasks of their own, when it is called."""
    app = FastAPI()

    @app.get("/call")
    async def call() -> None:
        async def ask(port: int) -> None:
            async with client(port) as hop:
                await hop.infer(request(), {}, Deadline(5))

        await asyncio.gather(*(ask(port) for port in predictors))

    @app.get("/bad")
    async def bad() -> None:
        raise InvalidInput("no")

    return wrap(app, {}, Keys(), Drain(), 1000, revision=revision)


async def get(port: int, path: str = "/call") -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        return await http.get(path)


async def test_an_answer_names_its_own_revision_and_those_of_all_predictors(serve_app: ServeApp) -> None:
    first = await serve_app(predictor(revision="m-predictor-00001"))
    second = await serve_app(predictor(revision="m-predictor-00002"))
    port = await serve_app(transformer(first, second, second, revision="m-transformer-00007"))
    for _ in range(2):  # nothing stays from the request before
        answer = await get(port)
        assert answer.status_code == 200
        assert answer.headers[served_by.HEADER] == "m-predictor-00001, m-predictor-00002, m-transformer-00007"
    assert (await get(port, "/bad")).headers[served_by.HEADER] == "m-transformer-00007"


async def test_a_refusal_of_a_predictor_names_it(serve_app: ServeApp) -> None:
    refusing = Scripted(refused(400, **{served_by.HEADER: "m-predictor-00003"}))
    answer = await get(await serve_app(transformer(await serve_app(refusing), revision="")))
    assert (answer.status_code, answer.headers[served_by.HEADER]) == (400, "m-predictor-00003")


async def test_without_revisions_there_is_no_header(serve_app: ServeApp) -> None:
    answer = await get(await serve_app(transformer(await serve_app(Scripted(ok())), revision="")))
    assert answer.status_code == 200
    assert served_by.HEADER not in answer.headers


@pytest.mark.parametrize("header", ["http://10.0.0.1:8080", "Über", "a b", ",,", "x" * 300])
async def test_what_is_no_name_is_not_passed_on(header: str) -> None:
    with served_by.noting("") as names:
        served_by.note(header)
    assert names == set()
