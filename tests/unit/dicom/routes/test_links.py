"""Studies behind links: a file at any server, and WADO-RS answers of a DICOMweb server, past the same guard."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from serving.errors import InvalidInput
from tests.servers import Listener, listen
from tests.unit.dicom.routes.loopback import ARCHIVE, FILES, LIMIT, CtLoopback
from transformers_pre.dicom import dicomweb
from transformers_pre.dicom.settings import DicomSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOUNDARY = "b0undary"
STUDY = "/dicom-web/studies/1.2.3"
SERIES = f"{STUDY}/series/4.5"


class Archive:
    """A server with a ZIP and a DICOMweb root; notes what it was asked for."""

    def __init__(self) -> None:
        self.accepts: list[str] = []
        self.authorizations: list[str | None] = []
        self.answer = related(FILES)
        self.app = Starlette(
            routes=[
                Route("/study.zip", self.zip),
                Route("/moved", self.moved),
                *(Route(path, self.wado) for path in (STUDY, SERIES)),
            ]
        )

    async def zip(self, request: Request) -> Response:
        self.accepts.append(request.headers["accept"])
        return Response(ARCHIVE)

    async def moved(self, request: Request) -> Response:
        return Response(status_code=302, headers={"location": "http://169.254.169.254/latest"})

    async def wado(self, request: Request) -> Response:
        self.accepts.append(request.headers["accept"])
        self.authorizations.append(request.headers.get("authorization"))
        return self.answer


def related(
    files: list[bytes], kind: str = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
) -> Response:
    parts = [b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (BOUNDARY.encode(), data) for data in files]
    return Response(b"".join(parts) + b"--%s--\r\n" % BOUNDARY.encode(), headers={"content-type": kind})


def cut_off(answer: Response) -> Response:
    """The answer without its closing boundary, its length right."""
    return Response(answer.body[:-20], headers={"content-type": answer.headers["content-type"]})


@pytest_asyncio.fixture(loop_scope="module")
async def archive() -> AsyncIterator[tuple[Archive, str]]:
    made = Archive()
    listener: Listener = await listen(made.app)
    yield made, f"http://127.0.0.1:{listener.port}"
    await listener.stop()


async def sent(pod: CtLoopback, **body: Any) -> dict[str, Any]:
    response = await pod.http.post("/predict", json=body)
    assert response.status_code == 200, response.text
    assert await pod.leftovers() == 0
    found: dict[str, Any] = response.json()
    return found


async def test_a_study_behind_a_link(pod: CtLoopback, archive: tuple[Archive, str]) -> None:
    answer = await sent(pod, url=f"{archive[1]}/study.zip", heads=["risk"], prompts=[])
    assert answer["input"]["slices"]["used"] == 24
    assert pod.fake.asked[0].options.wanted == {"risk"}
    assert archive[0].accepts == ["*/*"]


@pytest.mark.parametrize("path", [STUDY, SERIES])
async def test_a_study_at_a_dicomweb_server(pod: CtLoopback, archive: tuple[Archive, str], path: str) -> None:
    expected = (await pod.answer())["probability_of_pathology"]
    answer = await sent(pod, dicomweb=f"{archive[1]}{path}")
    assert answer["probability_of_pathology"] == pytest.approx(expected, abs=1e-7)
    assert answer["input"]["slices"]["received"] == 24
    assert archive[0].accepts == ['multipart/related; type="application/dicom"; transfer-syntax=*']


ANSWERS = {
    "another type": (lambda: related(FILES, "application/zip"), 422, "url_not_dicomweb"),
    "no boundary": (lambda: related(FILES, "multipart/related"), 422, "url_not_dicomweb"),
    "cut off": (lambda: cut_off(related(FILES)), 422, "url_parts"),
    "no parts": (lambda: related([]), 400, "empty_file"),
    "too many parts": (lambda: related([b"x"] * 31), 413, "too_many_files"),
    "too large": (lambda: related([bytes(LIMIT // 2)] * 3), 413, "file_too_large"),
    "not found": (lambda: Response(status_code=404), 422, "url_status"),
}


@pytest.mark.parametrize(("answer", "status", "code"), ANSWERS.values(), ids=ANSWERS)
async def test_what_a_dicomweb_server_may_not_answer(
    pod: CtLoopback, archive: tuple[Archive, str], answer: Any, status: int, code: str
) -> None:
    archive[0].answer = answer()
    refused = await pod.http.post("/predict", json={"dicomweb": f"{archive[1]}{SERIES}"})
    assert await pod.refusal(refused) == (status, code)


@pytest.mark.parametrize(
    "path", ["/study.zip", "/dicom-web/studies/1.2/metadata", "/dicom-web/studies/1.2?x=/studies/1"]
)
async def test_what_is_no_study_or_series(pod: CtLoopback, archive: tuple[Archive, str], path: str) -> None:
    refused = await pod.http.post("/predict", json={"dicomweb": f"{archive[1]}{path}"})
    assert await pod.refusal(refused) == (400, "bad_url")
    assert archive[0].accepts == []


@pytest.mark.parametrize("kind", ["url", "dicomweb"])
@pytest.mark.parametrize("host", ["127.0.0.2:9", "[::1]:9", "169.254.169.254", "10.0.0.7"])
async def test_private_addresses_are_out_of_reach(pod: CtLoopback, kind: str, host: str) -> None:
    refused = await pod.http.post("/predict", json={kind: f"http://{host}{SERIES}"})
    assert await pod.refusal(refused) == (400, "forbidden_url")


async def test_a_redirect_leads_nowhere_else(pod: CtLoopback, archive: tuple[Archive, str]) -> None:
    refused = await pod.http.post("/predict", json={"url": f"{archive[1]}/moved"})
    assert await pod.refusal(refused) == (400, "forbidden_url")


SECRET = "Bearer s3cret-of-the-archive"


def with_credentials(root: str) -> DicomSettings:
    return DicomSettings(
        model_name="ct",
        url_allow="127.0.0.1",
        dicomweb=True,
        dicomweb_root=root,
        dicomweb_authorization=SecretStr(SECRET),
    )


async def test_credentials_go_to_their_server(archive: tuple[Archive, str]) -> None:
    server, address = archive
    file, parts = await dicomweb.fetch(f"{address}{SERIES}", with_credentials(f"{address}/dicom-web/"))
    file.close()
    assert (len(parts), server.authorizations) == (24, [SECRET])


async def test_a_redirect_to_another_server_goes_without_them(archive: tuple[Archive, str]) -> None:
    server, address = archive
    moved = Starlette(routes=[Route(SERIES, lambda _: RedirectResponse(f"{address}{SERIES}"))])
    listener = await listen(moved)
    root = f"http://127.0.0.1:{listener.port}/dicom-web"
    file, _ = await dicomweb.fetch(f"{root}/studies/1.2.3/series/4.5", with_credentials(root))
    file.close()
    await listener.stop()
    assert server.authorizations == [None]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/dicom-web/studies/1.2",
        "{root}.example.org/studies/1.2",
        "{root}/studies/../studies/1.2",
        "{root}/studies/..",
        "{root}/../studies/1.2",
        "{root}@example.org/studies/1.2",
        "{root}/studies/1.2/series/1..2",
        "{root}/studies/" + "1" * 65,
    ],
)
async def test_nothing_but_their_server_is_asked(archive: tuple[Archive, str], url: str) -> None:
    root = f"{archive[1]}/dicom-web"
    with pytest.raises(InvalidInput) as refused:
        await dicomweb.fetch(url.format(root=root), with_credentials(root))
    assert refused.value.code == "bad_url"
    assert SECRET not in refused.value.message
    assert archive[0].authorizations == []
