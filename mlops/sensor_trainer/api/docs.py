"""The page of the OpenAPI document: Swagger UI from files of the image, so that a browser asks no stranger for them."""

from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

PAGE = "/docs"
_SCRIPT, _STYLE, _ICON = (f"{PAGE}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"))
PATHS = frozenset({PAGE, _SCRIPT, _STYLE, _ICON})
# The page draws with a script and styles within it, and asks this server alone.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def install(app: FastAPI) -> None:
    """Adds the page and its files to the application."""

    @app.get(PAGE, include_in_schema=False)
    async def page() -> HTMLResponse:
        html = get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=_SCRIPT.removeprefix("/"),
            swagger_css_url=_STYLE.removeprefix("/"),
            swagger_favicon_url=_ICON.removeprefix("/"),
        )
        html.headers.update(_HEADERS)
        return html

    app.mount(PAGE, StaticFiles(directory=str(files("fastapi_swagger") / "resources")))
