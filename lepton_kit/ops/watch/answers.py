"""How the servers of the kit answer a browser: pages, the report site, and forms."""

from __future__ import annotations

from pathlib import Path

from fastapi import HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

from lepton_kit.errors import InputError
from lepton_kit.ops.watch import page
from lepton_kit.ops.watch.approvals import BODY_LIMIT, FORM_TYPE, MOST_FIELDS, read_form
from lepton_kit.ops.watch.door import Refused, whole_body

STYLE = Path(__file__).with_name("style.css")


class Site(StaticFiles):
    """The report site, which may not be there yet."""

    def __init__(self, project: Path) -> None:
        super().__init__(directory=project / "reports" / "_site", html=True, check_dir=False)

    async def check_config(self) -> None:
        """Answer 404 where there is none."""
        try:
            await super().check_config()
        except RuntimeError as error:
            raise HTTPException(404, "there is no report site yet; `lepton report` makes it") from error


def answer(markup: str, code: int = 200, framed_by: str = "'none'") -> Response:
    """Return a page, which runs no script; `framed_by` says whose pages may show it within theirs."""
    headers = {
        "Content-Security-Policy": page.CONTENT_SECURITY_POLICY + framed_by,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",  # a form tells this server where it comes from, and no other
        "Cache-Control": "no-store",
    }
    return HTMLResponse(markup, code, headers)


def style() -> Response:
    """Return the style of the pages."""
    return Response(STYLE.read_text(encoding="utf-8"), media_type="text/css")


async def form_of(request: Request, limit: int = BODY_LIMIT, most: int = MOST_FIELDS) -> dict[str, str]:
    """Return the fields of the form that a request sends, of `limit` bytes and with `most` fields at most.

    Raises Refused when the body is no form, is too large or too slow, or has too many fields.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise Refused(415, "the body is not a form")
    try:
        return read_form(await whole_body(request, limit), most)
    except InputError as error:
        raise Refused(422, str(error)) from error
