"""The OpenAPI document of the server, made of the table of parameters."""

from functools import cache
from typing import Any

import diffoundry
from diffoundry.serving.server.parameter_table import ENDPOINTS, NEUTRAL, PARAMETERS
from diffoundry.serving.server.parameters import Kind, json_schema

__all__ = ["openapi_document"]

_NEEDED = {"generations": [], "edits": ["image", "prompt"], "variations": ["image"]}

_SUMMARIES = {
    "generations": "Generate images from a prompt",
    "edits": "Generate an image, or a part of it, again",
    "variations": "Generate variations of an image",
}

_TEXT = {"type": "string"}
_INTEGER = {"type": "integer"}
_NUMBER = {"type": "number"}
_OBJECT = {"type": "object"}


def _may_be_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


_IMAGE = _object({"b64_json": _TEXT, "url": _TEXT, "seed": _may_be_null(_INTEGER)}, [])

_SCHEMAS: dict[str, Any] = {
    "Error": _object(
        {
            "error": _object(
                {"message": _TEXT, "type": _TEXT, "param": _may_be_null(_TEXT), "code": _TEXT},
                ["message", "type", "param", "code"],
            )
        },
        ["error"],
    ),
    "Images": _object(
        {
            "created": _INTEGER,
            "background": _TEXT,
            "data": {"type": "array", "items": _IMAGE},
            "output_format": _TEXT,
            "size": _TEXT,
            "usage": _OBJECT,
            "warnings": {"type": "array", "items": _TEXT},
        },
        ["created", "data", "output_format", "size"],
    ),
    "Model": _object(
        {"id": _TEXT, "object": {"const": "model"}, "created": _INTEGER, "owned_by": _TEXT},
        ["id", "object", "created", "owned_by"],
    ),
    "Job": _object(
        {
            "id": _TEXT,
            "object": {"const": "job"},
            "model": _TEXT,
            "status": {"enum": ["queued", "running", "done", "cancelled", "failed"]},
            "position": _may_be_null(_INTEGER),
            "step": _INTEGER,
            "total": _may_be_null(_INTEGER),
            "queued_seconds": _NUMBER,
            "running_seconds": _NUMBER,
            "error": _may_be_null(_TEXT),
        },
        ["id", "object", "model", "status"],
    ),
}
_SCHEMAS["Models"] = _object(
    {"object": {"const": "list"}, "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}},
    ["object", "data"],
)

_ERRORS = {
    400: "A parameter is unknown or cannot be used; the message names it.",
    401: "No API key, or a wrong one.",
    403: "A host or an origin that the operator does not allow.",
    404: "There is no such model, job or image.",
    405: "The address does not take this method.",
    408: "The request did not arrive in time.",
    409: "A job with this X-Request-Id is under way.",
    413: "The request is too large.",
    415: "The Content-Type is neither JSON nor a form.",
    429: "The queue is full; see Retry-After.",
    499: "The job was cancelled.",
    500: "An engine failed.",
    503: "The server is stopping; see Retry-After.",
    504: "The job took longer than the operator allows.",
}


def _json(name: str, description: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _answers(name: str, description: str, *errors: int) -> dict[str, Any]:
    refused = {str(status): _json("Error", _ERRORS[status]) for status in sorted({403, *errors})}
    return {"200": _json(name, description), **refused}


@cache
def openapi_document() -> dict[str, Any]:
    """Return the document; it is the same for every server."""
    paths: dict[str, Any] = {f"/v1/images/{name}": {"post": _post(name)} for name in ENDPOINTS}
    paths |= {
        "/v1/models": {"get": {"summary": "List the models", "responses": _answers("Models", "The models.", 401)}},
        "/v1/models/{model}": {
            "parameters": [_path_parameter("model")],
            "get": {"summary": "Describe a model", "responses": _answers("Model", "The model.", 401, 404)},
        },
        "/v1/jobs/{job}": {
            "parameters": [_path_parameter("job")],
            "get": {"summary": "State of a job", "responses": _answers("Job", "The job.", 401, 404)},
            "delete": {"summary": "Cancel a job", "responses": _answers("Job", "The job.", 401, 404)},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "diffoundry", "version": diffoundry.__version__},
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _post(endpoint: str) -> dict[str, Any]:
    needed = _NEEDED[endpoint]
    names = sorted(ENDPOINTS[endpoint])
    properties = {name: json_schema(PARAMETERS[name]) for name in names}
    properties |= {name: {"enum": [*values, None], "description": reason} for name, (values, reason) in NEUTRAL.items()}
    for name in needed:
        properties[name] = {**properties[name], "anyOf": properties[name]["anyOf"][:-1]}
    body = {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}
    files = {name: _form_schema(name, properties[name]) for name in properties}
    form = {**body, "properties": files}
    answers = _answers("Images", "The images.", *(status for status in _ERRORS if status not in (405, 500)))
    answers["200"]["content"]["text/event-stream"] = {"schema": _TEXT}
    answers["200"]["headers"] = {"X-Request-Id": {"schema": _TEXT}}
    header = {
        "name": "X-Request-Id",
        "in": "header",
        "description": "An id for the job, for DELETE /v1/jobs/{job}.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{8,64}$"},
    }
    return {
        "summary": _SUMMARIES[endpoint],
        "parameters": [header],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body}, "multipart/form-data": {"schema": form}},
        },
        "responses": answers,
    }


def _form_schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field of a form: images are files there."""
    if name not in PARAMETERS or PARAMETERS[name].kind is not Kind.IMAGE:
        return schema
    file = {"type": "string", "format": "binary"}
    return {"anyOf": [file, {"type": "array", "items": file}]} if PARAMETERS[name].several else file
