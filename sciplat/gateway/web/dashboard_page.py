"""The pages before a dashboard: the login, and what there is to say instead of a dashboard. No scripts."""

import base64
import hashlib
from html import escape

from aiohttp import web

PROTECTION = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "frame-ancestors 'self'",
}
_STYLE = """
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: #eef1f5; color: #1c2733;
       font: 16px/1.5 system-ui, sans-serif; }
main { width: min(24rem, 86vw); padding: 2rem 2.2rem; background: #fff; border-radius: 10px;
       box-shadow: 0 1px 3px #1c273333, 0 8px 30px #1c27331a; }
h1 { margin: 0 0 .8rem; font-size: 1.3rem; }
p { margin: 0 0 1rem; }
code { font-size: .92em; background: #eef1f5; padding: .1em .35em; border-radius: 4px; white-space: nowrap; }
label { display: block; font-weight: 600; margin-bottom: .3rem; }
input { box-sizing: border-box; width: 100%; padding: .55rem .7rem; font: inherit; border: 1px solid #9aa7b5;
        border-radius: 6px; }
button { margin-top: 1rem; width: 100%; padding: .6rem; font: inherit; font-weight: 600; color: #fff;
         background: #14508c; border: 0; border-radius: 6px; cursor: pointer; }
.wrong { padding: .6rem .8rem; color: #7d1a1a; background: #fbeaea; border-radius: 6px; overflow-wrap: anywhere; }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
)


def login_page(cluster: str, form: str, *, wrong: str = "", status: int = 200) -> web.Response:
    """Return the page that asks for a token.

    Parameters
    ----------
    cluster : str
        Its name.
    form : str
        What the form must bring back together with its cookie.
    wrong : str
        What was wrong the last time.
    status : int
    """
    return _page(
        f"Dashboard of cluster {cluster[:8]}",
        f"""{_wrong(wrong)}
<p>Only its owner may see it. In a notebook, the link in <code>cluster.dashboard</code> opens it without a token;
<code>sciplat token create NAME</code> makes one.</p>
<form method="post" action="login">
<input type="hidden" name="form" value="{escape(form)}">
<label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="off" required autofocus>
<button>Open the dashboard</button>
</form>""",
        status,
    )


def ticket_page(cluster: str, owner: str, form: str, ticket: str) -> web.Response:
    """Return the page that asks whoever comes from another site whether they mean it: the link may not be theirs."""
    return _page(
        f"Dashboard of cluster {cluster[:8]}",
        f"""<p>This link opens the dashboard of a cluster of <b>{escape(owner)}</b>. Go on only if that is you.</p>
<form method="post" action="login">
<input type="hidden" name="form" value="{escape(form)}">
<input type="hidden" name="ticket" value="{escape(ticket)}">
<button>I am {escape(owner)}: open it</button>
</form>""",
        200,
    )


def notice_page(title: str, text: str, status: int) -> web.Response:
    """Return a page that says something."""
    return _page(title, f"<p>{escape(text)}</p>", status)


def _wrong(text: str) -> str:
    return f'<p class="wrong" role="alert">{escape(text)}</p>' if text else ""


def _page(title: str, body: str, status: int) -> web.Response:
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><main><h1>{escape(title)}</h1>
{body}
</main></body></html>
"""
    headers = {**PROTECTION, "Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return web.Response(text=text, content_type="text/html", status=status, headers=headers)
