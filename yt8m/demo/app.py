"""The demo's pages. Everything that they need comes from this server; nothing is fetched from elsewhere."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from yt8m.api.model import Model
from yt8m.api.records import Record
from yt8m.demo.catalog import Catalog
from yt8m.demo.pages import Page, Result
from yt8m.demo.uploads import RefusedError, Uploads
from yt8m.errors import YT8MError

_KEPT = 20  # results of uploads
_LONGEST_QUERY = 200
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(model: Model, catalog: Catalog, uploads: Uploads | None, checkpoint: str) -> Starlette:
    """The demo of a model.

    Args:
        model: what predicts.
        catalog: the dataset's videos.
        uploads: None takes none.
        checkpoint: the model's file, to show.
    """
    page = Page(model, catalog, checkpoint, uploads)
    computing = threading.Lock()  # requests share the cores, and the module's mode
    kept: OrderedDict[str, Result] = OrderedDict()

    def result(record: Record, labels: tuple[int, ...] | None, notes: tuple[str, ...] = ()) -> Result:
        with computing:
            return page.result(record, labels, notes)

    def index(request: Request) -> Response:
        query = request.query_params.get("q", "").strip()[:_LONGEST_QUERY]
        if catalog.get(query):
            return RedirectResponse(f"/video/{quote(query, safe='')}", status_code=303)
        return HTMLResponse(page.render(query=query))

    def video(request: Request) -> Response:
        name = request.path_params["name"]
        entry = catalog.get(name)
        if entry is None:
            known = f"the first {len(catalog.entries):,} of {catalog.partition}"
            error = f"No video among {known} has the id {name[:_LONGEST_QUERY]}."
            return HTMLResponse(page.render(error=error), 404)
        try:
            shown = result(catalog.record(entry), entry.labels)
        except YT8MError as error:  # the shard changed
            return HTMLResponse(page.render(error=str(error)), 500)
        return HTMLResponse(page.render(result=shown))

    async def upload(request: Request) -> Response:
        # A type that no form of another site can send; scripts there would need this server's permission.
        if request.headers.get("content-type") != "application/octet-stream":
            return JSONResponse({"error": "expected application/octet-stream"}, 415)
        if uploads is None:
            return JSONResponse({"error": "expected no upload: the demo was started without weights"}, 404)
        try:
            declared = request.headers.get("content-length", "0")
            if not declared.isdecimal() or int(declared) > uploads.most_bytes:
                raise uploads.too_large()
            record, notes = await uploads.receive(request.stream())
            shown = await run_in_threadpool(result, record, None, notes)
        except RefusedError as refused:
            return JSONResponse({"error": str(refused)}, refused.status, {"Connection": "close"})
        except ClientDisconnect:
            return Response(status_code=400)
        except YT8MError as error:
            return JSONResponse({"error": str(error)}, 422)
        token = secrets.token_urlsafe(16)
        kept[token] = shown
        while len(kept) > _KEPT:
            kept.popitem(last=False)
        return JSONResponse({"location": f"/upload/{token}"})

    def uploaded(request: Request) -> Response:
        shown = kept.get(request.path_params["token"])
        if shown is None:
            return HTMLResponse(page.render(error="This result is gone. Upload the video again."), 404)
        return HTMLResponse(page.render(result=shown))

    routes = [
        Route("/", index),
        Route("/video/{name:path}", video),
        Route("/upload", upload, methods=["POST"]),
        Route("/upload/{token}", uploaded),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=_add_headers),
            # Another name than this machine's own is that of a page elsewhere, whose DNS entry points here.
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False),
        ],
    )


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers.update(_HEADERS)
    return response
