"""Pages of what stands between a client and a provider: proxies, gateways and firewalls answer in HTML.

None of them is an API error, and none carries the provider's request id.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trivet_simulator.http import response


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `status` is the HTTP status, `title` its heading."""

    status: int
    title: str
    server: str
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def raw(self, body: str = "", headers: dict[str, str] | None = None, status: int | None = None) -> bytes:
        """Return the whole response; `body`, `headers` and `status` replace or add to the page's own."""
        page = body or (
            f"<html>\r\n<head><title>{self.title}</title></head>\r\n<body>\r\n<center><h1>{self.title}</h1></center>\r\n"
            f"{self.text}<hr><center>{self.server}</center>\r\n</body>\r\n</html>\r\n"
        )
        sent = {"content-type": "text/html; charset=utf-8", "server": self.server, **self.headers, **(headers or {})}
        return response(status or self.status, sent, page.encode())


PAGES: dict[str, Page] = {
    "proxy_page_401": Page(
        401, "401 Authorization Required", "nginx", headers={"www-authenticate": 'Basic realm="proxy"'}
    ),
    "proxy_page_403": Page(403, "403 Forbidden", "nginx"),
    "firewall_page_403": Page(
        403,
        "Request blocked",
        "waf",
        "<p>This request was blocked by the security policy of your organisation (rule: sensitive data).</p>",
    ),
    "proxy_page_404": Page(404, "404 Not Found", "nginx"),
    "proxy_page_407": Page(
        407, "407 Proxy Authentication Required", "squid", headers={"proxy-authenticate": 'Basic realm="proxy"'}
    ),
    "proxy_page_413": Page(413, "413 Request Entity Too Large", "nginx/1.27.2"),
    "proxy_page_500": Page(500, "500 Internal Server Error", "nginx"),
    "proxy_page_502": Page(502, "502 Bad Gateway", "nginx"),
    "proxy_page_503": Page(503, "503 Service Temporarily Unavailable", "nginx"),
    "proxy_page_504": Page(504, "504 Gateway Time-out", "nginx"),
}
"""By name of the fault; the same on every wire."""
