"""The API's page: its OpenAPI description as plain HTML that needs nothing from the internet."""

from html import escape
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #ccc} code{background:#f3f3f3;padding:.1em .3em}
table{border-collapse:collapse;width:100%} td,th{text-align:left;vertical-align:top;padding:.3em .6em;border-top:1px solid #ddd}
.verb{font-weight:700} pre{white-space:pre-wrap}
@media (prefers-color-scheme:dark){body{color:#ddd;background:#181818} code{background:#2a2a2a} td,th{border-color:#444}}
"""


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(_kind(part) for part in schema.get("anyOf") or schema["oneOf"])
    if "const" in schema:
        return f"<code>{escape(repr(schema['const']))}</code>"
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"))
        if key in schema
    ]
    return escape(" ".join([schema.get("type", "anything"), *bounds]))


def _body(content: dict[str, Any]) -> str:
    return ", ".join(_kind(entry.get("schema", {})) for entry in content.values())


def _operation(path: str, verb: str, operation: dict[str, Any]) -> str:
    takes = [
        f"<code>{escape(parameter['name'])}</code>: {_kind(parameter['schema'])}"
        for parameter in operation.get("parameters", ())
    ]
    if "requestBody" in operation:
        takes.append(_body(operation["requestBody"]["content"]))
    gives = ", ".join(
        _body(answer["content"])
        for code, answer in operation["responses"].items()
        if code.startswith("2") and "content" in answer
    )
    return (
        f"<tr><td class=verb>{verb.upper()}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(operation.get('summary', ''))}</td><td>{'<br>'.join(takes)}</td><td>{gives}</td></tr>"
    )


def _model(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{'' if field in required else ' (optional)'}</td><td>{_kind(kind)}</td></tr>"
        for field, kind in schema.get("properties", {}).items()
    )
    return f"<h3 id={escape(name)}>{escape(name)}</h3><pre>{escape(schema.get('description', ''))}</pre><table>{rows}</table>"


def render(openapi: dict[str, Any]) -> str:
    """The whole page from an OpenAPI 3.1 document."""
    operations = "".join(
        _operation(path, verb, operation)
        for path, verbs in openapi["paths"].items()
        for verb, operation in verbs.items()
    )
    models = "".join(_model(name, schema) for name, schema in sorted(openapi["components"]["schemas"].items()))
    info = openapi["info"]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('description', ''))}</p>"
        "<p>Reached over the Unix socket in the node's data directory, for example "
        "<code>curl --unix-socket control.sock http://rrnode/v1/status</code>; the machine-readable description is at "
        "<code>/openapi.json</code>. <code>/v1/events</code> is a WebSocket too.</p>"
        "<h2>Operations</h2><table><tr><th><th>path<th>what<th>takes<th>gives</tr>"
        f"{operations}</table><h2>Models</h2>{models}</html>"
    )
