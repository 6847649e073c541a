"""POST `/v1/chat/completions`: a recording in an `input_audio` part, its caption as the answer; also under KServe's `/openai`.

Wire format: the stock `openai` client sends it and its types are what answers must satisfy. Text in the messages plays no part:
a fine-tuned Whisper takes none, and what Qwen2-Audio is asked is CAPTION_PROMPT. Nor does the model's name: a pod serves one.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any, BinaryIO, Self

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import Field, model_validator

from serving.contracts.caption import MAX_CAPTIONS, MAX_TOKENS
from serving.errors import InvalidInput, shown
from serving.middleware import unless_disconnected
from serving.routes import BodyBudget, JsonLimit
from serving.uploads.form import json_openapi
from transformers_pre.audio.caption import inputs
from transformers_pre.audio.caption.describer import Describer
from transformers_pre.audio.caption.description import CaptionedWindow, Description, Summarised, joint
from transformers_pre.audio.caption.forms import CaptionForm
from transformers_pre.audio.caption.settings import CaptionSettings
from transformers_pre.audio.routes import models
from transformers_pre.audio.routes.events import STREAM_END, EventStream, event

PREFIXES = ("/v1/chat", "/openai/v1")
"""Paths whose errors are in OpenAI's shape."""
_ONLY: dict[str, Any] = {"modalities": ["text"], "logprobs": False, "response_format": {"type": "text"}}
"""OpenAI's fields that ask for other answers than these texts, and the one value that each may have."""
_MESSAGES = {
    "messages": {
        "type": "array",
        "description": "The last message of the user holds one part `input_audio`, with the recording in its `data`: base64, "
        "a data: URL or an http(s) link.",
    }
}


class ChatForm(CaptionForm):
    """OpenAI's fields, and `CaptionForm`'s besides."""

    model: str | None = None
    """Any name is accepted: a pod serves one model, whatever name a client has built in."""
    n: int | None = Field(None, ge=1, le=MAX_CAPTIONS)
    """Captions, a choice each; OpenAI's name for `num_captions`."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens of a caption; more than a caption can have are as good as none."""
    max_completion_tokens: int | None = Field(None, ge=1)
    """OpenAI's newer name for `max_tokens`."""
    stream: bool = False
    """Whether the answer is a stream of server-sent events."""

    @model_validator(mode="after")
    def _own_names(self) -> Self:
        """OpenAI's names as those of `CaptionForm`."""
        most = self.max_completion_tokens or self.max_tokens
        names = {"num_captions": self.n or self.num_captions, "max_tokens": most and min(most, MAX_TOKENS)}
        return self.model_copy(update=names)


def router(describer: Describer, settings: CaptionSettings, bodies: BodyBudget, ready: Callable[[], bool]) -> APIRouter:
    """The route, over a describer, and the list of models. `ready` says whether the model answers."""
    routes = APIRouter()
    for part in (_completions(describer, settings, bodies), models.router(settings.model_name, ready)):
        routes.include_router(part, tags=["OpenAI"])
        routes.include_router(part, prefix="/openai", include_in_schema=False)
    return routes


def _completions(describer: Describer, settings: CaptionSettings, bodies: BodyBudget) -> APIRouter:
    routes = APIRouter()
    limit = JsonLimit(settings.max_json_bytes, settings.max_json_values)

    async def received(request: Request) -> tuple[ChatForm, BinaryIO]:
        with bodies.share() as take:  # until the recording is on disk
            body = await limit.receive(request, take)
            form = _form(body)
            return form, await inputs.recording(*audio_part(body.get("messages")), settings)

    @routes.post("/v1/chat/completions", summary="A caption as a chat", openapi_extra=json_openapi(ChatForm, _MESSAGES))
    async def completions(request: Request) -> Response:
        form, recording = await received(request)
        headers = dict(request.headers)
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": settings.model_name,
        }
        with contextlib.ExitStack() as resources:
            resources.enter_context(recording)
            asked = form.request(recording)
            if form.stream:
                incremental = form.summary == "joined" and form.num_captions == 1
                events = chunks(describer.stream(asked, headers), head, incremental=incremental)
                return EventStream(events, resources.pop_all(), settings.stream_keep_alive_seconds)
            found = await unless_disconnected(request.receive, describer.describe(asked, headers))
        return Response(orjson.dumps(completion(found, head)), media_type="application/json")

    return routes


def _form(body: dict[str, Any]) -> ChatForm:
    for name, accepted in _ONLY.items():
        if body.get(name) not in (None, accepted):
            raise InvalidInput(
                f"{name} can only be {orjson.dumps(accepted).decode()} here: the answer is a caption",
                code="unsupported_value",
                param=name,
            )
    return ChatForm.from_values(body)


def audio_part(messages: Any) -> tuple[Any, str]:
    """What the one `input_audio` part of the user's last message holds, and where it is. Raises InvalidInput."""
    users = [
        (index, each.get("content"))
        for index, each in enumerate(messages if isinstance(messages, list) else [])
        if isinstance(each, dict) and each.get("role") == "user"
    ]
    if not users:
        raise InvalidInput("messages must be a list with a message of the role 'user'", param="messages")
    index, content = users[-1]
    where = f"messages[{index}].content"
    parts = content if isinstance(content, list) else []
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
    if unknown := [kind for kind in kinds if kind not in ("text", "input_audio")]:
        raise InvalidInput(
            f"{where} has a part of the type {shown(unknown[0])}, 'text' and 'input_audio' are accepted",
            param=where,
        )
    if kinds.count("input_audio") != 1:
        raise InvalidInput(
            f"{where} must hold one part of the type 'input_audio', it has {kinds.count('input_audio')}", param=where
        )
    position = kinds.index("input_audio")
    return parts[position].get("input_audio"), f"{where}[{position}].input_audio"


def completion(found: Description, head: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's `ChatCompletion`: a choice a caption; one with the content null, and `silence`, when there is nothing to hear."""
    said: list[tuple[str | None, str]] = [(each.text, _reason(each)) for each in found.captions]
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": reason,
        }
        for index, (text, reason) in enumerate(said or [(None, "stop")])
    ]
    return {**head, "object": "chat.completion", "choices": choices, **_silence(found)}


async def chunks(
    updates: AsyncGenerator[CaptionedWindow | Description, None], head: dict[str, Any], *, incremental: bool
) -> AsyncGenerator[bytes, None]:
    """OpenAI's events of a description in the making. The deltas of a choice joined are what it has without `stream`.

    Args:
        updates: what is described; closed at the end.
        head: id, time and model of the answer.
        incremental: whether each window adds to the text at once, which only joined captions of one choice allow.
    """

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**head, "object": "chat.completion.chunk", "choices": [choice], **more})

    begun: set[int] = set()

    def said(index: int, text: str) -> bytes:
        role = {} if index in begun else {"role": "assistant"}
        begun.add(index)
        return chunk(index, {**role, "content": text})

    sent, before = "", None
    async with contextlib.aclosing(updates):
        async for update in updates:
            if isinstance(update, Description):
                texts = [each.text for each in update.captions]
                rest = [texts[0].removeprefix(sent), *texts[1:]] if texts else []
                for index, text in enumerate(rest):
                    if text:
                        yield said(index, text)
                for index, reason in enumerate([_reason(each) for each in update.captions] or ["stop"]):
                    role = {} if index in begun else {"role": "assistant"}
                    yield chunk(index, role, reason, **_silence(update))
                yield STREAM_END
            elif incremental and update.captions:
                text = update.captions[0].text
                if text != before and (added := joint(sent) + text):
                    yield said(0, added)
                    sent += added
                before = text


def _reason(caption: Summarised) -> str:
    return "length" if caption.cut_off else "stop"


def _silence(found: Description) -> dict[str, Any]:
    return {"silence": True} if found.silence else {}
