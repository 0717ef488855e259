"""The page that shows a server working: files of the package, read once, and what a browser may do with them."""

from __future__ import annotations

from importlib import resources

from edgetl.serve.replies import Headers, Reply

__all__ = ["PAGES", "read_pages"]

# Path -> the file that answers it, and its media type.
PAGES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/page/style.css": ("style.css", b"text/css; charset=utf-8"),
    "/page/page.js": ("page.js", b"text/javascript; charset=utf-8"),
}
# Nothing from elsewhere, nothing framed; photos are shown from the browser's own memory.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    b"media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Headers = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"cache-control", b"no-cache"),
)


def read_pages() -> dict[str, Reply]:
    """Return what each path of the page answers."""
    folder = resources.files("edgetl.serve") / "page"
    return {
        path: Reply(body=(folder / name).read_bytes(), media_type=media_type, headers=HEADERS)
        for path, (name, media_type) in PAGES.items()
    }
