"""The application: routes, the layers around them, and every error in OpenAI's shape.

::

    app = create_app(open_served(Path("my-index"), arm=Arm.OUTPUT, gate=RefusalGate(GateAction.EMPTY)))

It is an ordinary ASGI application and can be mounted or served by any server; :mod:`~safe_retrieval.server.run` is what
``safe-retrieval serve`` uses. It computes between its startup and its shutdown, so what serves it must send both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from safe_retrieval import __version__
from safe_retrieval._extras import require
from safe_retrieval.errors import InputError
from safe_retrieval.server.door import Door
from safe_retrieval.server.endpoints import Endpoints
from safe_retrieval.server.engine import Engine, Served
from safe_retrieval.server.keys import KeyRing
from safe_retrieval.server.metrics import Metrics
from safe_retrieval.server.observing import Observing, current_request
from safe_retrieval.server.problems import NO_JSON, SERVER_FAILED, Problem, ProblemError, of_input, of_validation
from safe_retrieval.server.schemas import (
    EmbeddingsResponse,
    ErrorBody,
    Health,
    Model,
    ModelList,
    ScreenResponse,
    SearchResponse,
)
from safe_retrieval.server.settings import ServerSettings

PURPOSE = "the HTTP server"
"""What the extra ``server`` is needed for, as the error says where it is not installed."""


def create_app(served: Served, *, settings: ServerSettings | None = None, keys: KeyRing | None = None) -> Any:
    """Make the application.

    Args:
        served: models and index.
        settings: limits; ``None`` takes the defaults.
        keys: the API keys that are accepted; without any, only callers on this machine are answered, and under a
            loopback name alone. Who is on this machine, the serving server says (``scope["client"]``): a proxy before
            it makes a local caller of everybody.

    Returns:
        A ``fastapi.FastAPI``; its ``state.endpoints`` is where a server says that it drains.

    Raises:
        MissingExtraError: fastapi or prometheus-client is not installed.
    """
    fastapi: Any = require("fastapi", extra="server", purpose=PURPOSE)
    settings, metrics = settings or ServerSettings(), Metrics()
    engine = Engine(served, settings, metrics.passed)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        metrics.watch(engine.lanes)
        try:
            await engine.start()
            yield
        finally:
            await engine.close()

    app = fastapi.FastAPI(
        title="Safe Retrieval",
        version=__version__,
        description="Embeddings, search and the refusal gate, in OpenAI's shapes.",
        lifespan=lifespan,
        docs_url=None,  # both pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.endpoints = endpoints = Endpoints(engine, settings, metrics)
    _add_routes(app, endpoints, metrics, with_keys=bool(keys))
    _add_problems(app)
    app.add_middleware(Door, settings=settings, keys=keys or KeyRing())
    app.add_middleware(Observing, metrics=metrics)
    return app


def _add_routes(app: Any, endpoints: Endpoints, metrics: Metrics, *, with_keys: bool) -> None:
    fastapi: Any = require("fastapi", extra="server", purpose=PURPOSE)
    problem = {"model": ErrorBody, "description": "What is wrong, in OpenAI's shape."}
    bearer = fastapi.Depends(fastapi.security.HTTPBearer(auto_error=False))  # for the schema: the door asks for the key

    def add(method: str, path: str, endpoint: Any, response: type | None, *, open_to_all: bool = False) -> None:
        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            response_model=response,
            response_model_exclude_none=False,
            responses={"4XX": problem, "5XX": problem},
            dependencies=[bearer] if with_keys and not open_to_all else [],
        )

    async def figures() -> Any:
        """Prometheus metrics."""
        return fastapi.Response(metrics.render(), media_type=metrics.content_type)

    add("POST", "/v1/embeddings", endpoints.embeddings, EmbeddingsResponse)
    add("POST", "/v1/search", endpoints.search, SearchResponse)
    add("POST", "/v1/screen", endpoints.screen, ScreenResponse)
    add("GET", "/v1/models", endpoints.models, ModelList)
    add("GET", "/v1/models/{name:path}", endpoints.model, Model)
    add("GET", "/healthz", endpoints.healthz, Health, open_to_all=True)
    add("GET", "/readyz", endpoints.readyz, Health, open_to_all=True)
    app.add_api_route(
        "/metrics",
        figures,
        methods=["GET"],
        response_class=fastapi.responses.PlainTextResponse,
        dependencies=[bearer] if with_keys else [],
        responses={"4XX": problem},
    )


def _add_problems(app: Any) -> None:
    """Every way in which a request can fail, in one shape."""
    fastapi: Any = require("fastapi", extra="server", purpose=PURPOSE)

    def respond(problem: Problem, headers: dict[str, str] | None = None) -> Any:
        current_request().code = problem.code
        return fastapi.responses.JSONResponse(
            problem.body, status_code=problem.status, headers={**(headers or {}), **problem.headers}
        )

    async def of_problem(_: Any, error: ProblemError) -> Any:
        return respond(error.problem)

    async def of_wrong_input(_: Any, error: InputError) -> Any:
        return respond(of_input(error))

    async def of_wrong_body(_: Any, error: Any) -> Any:
        return respond(of_validation(error.errors()))

    async def of_http(_: Any, error: Any) -> Any:
        if error.status_code == HTTPStatus.BAD_REQUEST:  # too deep, too long a number: what the parser gives up on
            return respond(NO_JSON)
        phrase = HTTPStatus(error.status_code).phrase
        problem = Problem(error.status_code, phrase.lower(), phrase.lower().replace(" ", "_"))
        return respond(problem, error.headers)

    async def of_bug(_request: Any, _error: Exception) -> Any:
        return respond(SERVER_FAILED, {"x-request-id": current_request().id})

    app.add_exception_handler(ProblemError, of_problem)
    app.add_exception_handler(InputError, of_wrong_input)
    app.add_exception_handler(fastapi.exceptions.RequestValidationError, of_wrong_body)
    app.add_exception_handler(require("starlette.exceptions", extra="server", purpose=PURPOSE).HTTPException, of_http)
    app.add_exception_handler(Exception, of_bug)
