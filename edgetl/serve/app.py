"""The server's paths, and their description as OpenAPI."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from edgetl import __version__
from edgetl.errors import EdgetlError
from edgetl.serve.gate import Gate
from edgetl.serve.pages import read_pages
from edgetl.serve.replies import FAILURE, RefusedError, Reply, json_reply
from edgetl.serve.service import Service

__all__ = ["create_app"]

PHOTO = {"schema": {"type": "string", "format": "binary"}}
PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": PHOTO,
            "image/png": PHOTO,
            "image/webp": PHOTO,
            "multipart/form-data": {
                "schema": {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}
            },
        },
    },
    "parameters": [
        {"name": "top", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 999999}},
        {"name": "model", "in": "query", "schema": {"type": "string"}},
    ],
}
TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"enum": ["UINT8", "BYTES"]},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
}
INFER_BODY = {
    "requestBody": {
        "required": True,
        "description": "The images of an inference request: uint8 tensors, or encoded photos as BYTES in base64",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": TENSOR, "minItems": 1, "maxItems": 1},
                        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                        "parameters": {"type": "object"},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
ERROR = {
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
        }
    }
}


def create_app(service: Service, token: bytes | None = None) -> Gate:
    """Return the ASGI application of a service.

    Args:
        service: what answers.
        token: what clients must send; None lets everybody ask.
    """
    api = FastAPI(title="edgetl", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    infer_path, model_path = "/infer", "/v2/models/{name}"
    version_path = model_path + "/versions/{version}"

    def check_may_change() -> None:
        if token is None:
            raise RefusedError(403, "unauthorized", "models are loaded and unloaded by token only. Say --token-file")

    @api.post("/predict", openapi_extra=PREDICT_BODY, responses=_errors(400, 404, 413, 415, 503, 504))
    async def predict(request: Request) -> Response:
        """Say what is on a photo, or on several."""
        return _respond(await service.predict(request.scope, request.receive))

    @api.get("/v2/health/live")
    async def live() -> Response:
        """Say that the server runs."""
        return _respond(json_reply({"live": True}))

    @api.get("/v2/health/ready", responses=_errors(503))
    async def ready() -> Response:
        """Say whether every model answers."""
        return _respond(service.health())

    @api.get("/v2")
    async def server_metadata() -> Response:
        """Say what the server is."""
        return _respond(service.server_metadata())

    @api.get(model_path, responses=_errors(404))
    async def model_metadata(name: str) -> Response:
        """Say what a model reads and gives."""
        return _respond(service.model_metadata(name))

    @api.get(version_path, responses=_errors(404))
    async def version_metadata(name: str, version: str) -> Response:
        """Say what a version of a model reads and gives."""
        return _respond(service.model_metadata(name, version))

    @api.get(model_path + "/ready", responses=_errors(404))
    async def model_ready(name: str) -> Response:
        """Say whether a model answers."""
        return _respond(json_reply({"name": service.models.get(name).name, "ready": True}))

    @api.get(version_path + "/ready", responses=_errors(404))
    async def version_ready(name: str, version: str) -> Response:
        """Say whether a version of a model answers."""
        return _respond(json_reply({"name": service.models.get(name, version).name, "ready": True}))

    @api.post(model_path + infer_path, openapi_extra=INFER_BODY, responses=_errors(400, 404, 413, 415, 503, 504))
    async def infer(request: Request, name: str) -> Response:
        """Answer an inference request of the Open Inference Protocol."""
        return _respond(await service.infer(request.scope, request.receive, name))

    @api.post(version_path + infer_path, openapi_extra=INFER_BODY, responses=_errors(400, 404, 413, 415, 503, 504))
    async def version_infer(request: Request, name: str, version: str) -> Response:
        """Answer an inference request for a version of a model."""
        return _respond(await service.infer(request.scope, request.receive, name, version))

    @api.post("/v2/repository/index")
    async def index() -> Response:
        """Name every model that can be loaded, and say whether it is."""
        return _respond(service.index())

    @api.post("/v2/repository/models/{name}/load", responses=_errors(400, 403, 404, 503))
    async def load(name: str) -> Response:
        """Load a model again from its folder; the one before answers until the new one is proved."""
        check_may_change()
        return _respond(json_reply({"name": name, "version": (await service.load(name)).version}))

    @api.post("/v2/repository/models/{name}/unload", responses=_errors(403, 404))
    async def unload(name: str) -> Response:
        """Unload a model, once it has answered what it accepted."""
        check_may_change()
        await service.models.unload(name)
        return _respond(json_reply({"name": name}))

    @api.get(model_path + "/card", response_class=Response, responses={200: _text("text/markdown"), **_errors(404)})
    async def card(name: str) -> Response:
        """Give a model's card, in Markdown."""
        return _respond(service.card(name))

    @api.get("/metrics", response_class=Response, responses={200: _text("text/plain")})
    async def metrics() -> Response:
        """Give the figures that Prometheus reads."""
        return _respond(service.metrics.write(service.models))

    @api.exception_handler(RefusedError)
    async def refuse(request: Request, refusal: RefusedError) -> Response:
        service.metrics.refuse(refusal.reason)
        return _respond(refusal.reply)

    @api.exception_handler(EdgetlError)
    async def explain(request: Request, error: EdgetlError) -> Response:
        return _respond(json_reply({"error": str(error)}, 400))

    @api.exception_handler(HTTPException)
    async def miss(request: Request, error: HTTPException) -> Response:
        return _respond(json_reply({"error": str(error.detail)}, error.status_code, _headers(error.headers)))

    @api.exception_handler(RequestValidationError)
    async def reject(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return _respond(json_reply({"error": f"{where}: {first['msg']}"}, 400))

    @api.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return _respond(FAILURE)

    for path, reply in read_pages().items():
        api.add_api_route(path, partial(_give, reply), methods=["GET"], include_in_schema=False)
    return Gate(service, api, {("POST", "/predict"): service.predict}, token)


async def _give(reply: Reply) -> Response:
    return _respond(reply)


def _respond(reply: Reply) -> Response:
    response = Response(reply.body, reply.status, media_type=reply.media_type.decode())
    for name, value in reply.headers:
        response.headers[name.decode()] = value.decode()
    return response


def _headers(given: Any) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower().encode(), value.encode()) for name, value in (given or {}).items())


def _text(media_type: str) -> dict[str, Any]:
    return {"content": {media_type: {"schema": {"type": "string"}}}}


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    return dict.fromkeys(codes, ERROR)
