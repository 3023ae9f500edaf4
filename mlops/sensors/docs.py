"""The page of the OpenAPI document: Swagger UI where the browser reaches its files, else a plain list."""

import html
import json
from typing import Any

# The files that FastAPI's own page loads, of one fixed version.
_SWAGGER_UI = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.17.14"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; font: 16px/1.5 sans-serif; }}
summary {{ cursor: pointer; font-weight: bold; }}
pre {{ overflow: auto; background: #f4f4f4; padding: 1rem; }}
</style>
</head>
<body>
<main id="page">
<h1>{title}</h1>
<p>{description}</p>
<p>Swagger UI, with which requests can be tried from this page, is loaded from cdn.jsdelivr.net; where the browser does
not reach that, this list stays. The whole document: <a href="openapi.json">openapi.json</a>.</p>
{operations}
<h2>Schemas</h2>
{schemas}
</main>
<script>
const style = Object.assign(document.createElement("link"), {{ rel: "stylesheet", href: "{files}/swagger-ui.css" }});
const script = Object.assign(document.createElement("script"), {{ src: "{files}/swagger-ui-bundle.js" }});
script.addEventListener("load", () => {{
  document.head.append(style);
  SwaggerUIBundle({{ url: "openapi.json", dom_id: "#page", deepLinking: true }});
}});
document.body.append(script);
</script>
</body>
</html>
"""


def page(document: dict[str, Any]) -> str:
    """The page as HTML."""
    operations = [
        _folded(f"{method.upper()} {path} - {operation.get('summary', '')}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [_folded(name, schema) for name, schema in document["components"]["schemas"].items()]
    return _PAGE.format(
        title=html.escape(document["info"]["title"]),
        description=html.escape(document["info"]["description"]),
        operations="\n".join(operations),
        schemas="\n".join(schemas),
        files=_SWAGGER_UI,
    )


def _folded(title: str, content: object) -> str:
    text = html.escape(json.dumps(content, indent=2))
    return f"<details><summary>{html.escape(title)}</summary><pre>{text}</pre></details>"
