"""`Control`: the control port from Python. Synchronous, standard library only."""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from trivet_simulator.calls import Call
from trivet_simulator.checks import ControlError

TIMEOUT_S = 30.0


class Control:
    """Steers a running simulator. Safe to share between threads: each request has its own connection.

    ControlError (a ValueError with `.field`) is raised for input the simulator refuses, OSError when it is not there.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"url must be http://HOST:PORT, not {url!r}")
        self.url = url
        self._host, self._port = parts.hostname, parts.port

    def health(self) -> bool:
        """True when it answers."""
        return bool(self._ask("GET", "/health")["status"] == "ok")

    def providers(self) -> dict[str, dict[str, Any]]:
        """Port, url, counts, faults, limits and latency by provider."""
        return dict(self._ask("GET", "/providers"))

    def catalogue(self) -> dict[str, dict[str, str]]:
        """All faults with what they mean and how each wire shows them."""
        return dict(self._ask("GET", "/faults"))

    def fault(
        self,
        provider: str,
        kind: str | int,
        *,
        model: str | None = None,
        contains: str | None = None,
        matches: str | None = None,
        times: int | None = None,
        share: float | None = None,
        flap: tuple[float, float] | None = None,
        for_s: float | None = None,
        delay_s: float | None = None,
        retry_after_s: float | None = None,
        retry_after_as: str | None = None,
        seconds: float | None = None,
        after_bytes: int | None = None,
        factor: float | None = None,
        status: int | None = None,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        megabytes: float | None = None,
        tokens: int | None = None,
        category: str | None = None,
        add: bool = False,
    ) -> None:
        """Set a fault in place of those set before, or with `add` beside them. `kind`: a catalogue name or a status.

        model: glob · contains, matches: only requests of which a string of system or messages contains this text, or has a
        match of this regular expression · times: only the first so many · share: probability · flap: (seconds on, seconds off) ·
        for_s: ends by itself · delay_s: before an error · retry_after_as: seconds, float, date, ms, none ·
        seconds: of slow_first_byte and slow_drip · after_bytes: of a stalled_stream · factor: of latency · status, body, headers: of raw, and of pages ·
        megabytes: of gzip_bomb and huge_error · tokens: of absurd_tokens · category: of refusal.
        """
        document = {
            "kind": kind,
            "model": model,
            "contains": contains,
            "matches": matches,
            "times": times,
            "share": share,
            "flap_on_s": None if flap is None else flap[0],
            "flap_off_s": None if flap is None else flap[1],
            "for_s": for_s,
            "delay_s": delay_s,
            "retry_after_s": retry_after_s,
            "retry_after_as": retry_after_as,
            "seconds": seconds,
            "after_bytes": after_bytes,
            "factor": factor,
            "status": status,
            "body": body,
            "headers": None if headers is None else dict(headers),
            "megabytes": megabytes,
            "tokens": tokens,
            "category": category,
        }
        self._ask("POST" if add else "PUT", f"/providers/{provider}/fault", document)

    def faults(self, provider: str, faults: Iterable[Mapping[str, Any]]) -> None:
        """Set several faults at once, as the control port takes them; the first that matches a call hits it."""
        self._ask("PUT", f"/providers/{provider}/fault", [dict(fault) for fault in faults])

    def clear(self, provider: str | None = None) -> None:
        """Clear the faults of one provider, or of all. Calls that were held are answered; ports that are down stay down."""
        for name in self.providers() if provider is None else [provider]:
            self._ask("DELETE", f"/providers/{name}/fault")

    def reply(
        self,
        reply: str | list[dict[str, Any]] | Mapping[str, Any] | None = None,
        *,
        callback: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        contains: str | None = None,
        matches: str | None = None,
        times: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Script the answer to requests that pass the filter, before the rules set earlier. Returns the rule's id.

        reply: a text, a list of content blocks, fields of the message over what the model would say, or
        `{"error": "overloaded"}` with the fields of a fault · callback: a URL of this machine that is asked instead, within
        timeout_s (10 s) · provider, model (glob), contains, matches (regular expression), times: which requests.

            control.reply('{"total": 12}', contains="invoice 7")
        """
        document = {
            "reply": reply,
            "callback": callback,
            "provider": provider,
            "model": model,
            "contains": contains,
            "matches": matches,
            "times": times,
            "timeout_s": timeout_s,
        }
        return int(self._ask("POST", "/replies", document)[0]["id"])

    def replies(self) -> list[dict[str, Any]]:
        """Filters and counts of the scripted replies, in the order in which they are tried."""
        return list(self._ask("GET", "/replies"))

    def clear_replies(self, number: int | None = None) -> None:
        """Take back one scripted reply, or all but those the simulator was started with."""
        self._ask("DELETE", "/replies" if number is None else f"/replies/{number}")

    def limits(
        self,
        provider: str,
        *,
        requests_per_minute: float | None = None,
        input_tokens_per_minute: float | None = None,
        output_tokens_per_minute: float | None = None,
        concurrency: int | None = None,
        burst_s: float | None = None,
        each_model: bool = False,
        models: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Set the limits of a provider, counted from now; without any they are lifted.

        each_model: the figures hold for each model by itself · models: globs to further figures, shared by the models
        that match · burst_s: an Anthropic bucket holds so many seconds' worth (default 60).
        """
        document = {
            "requests_per_minute": requests_per_minute,
            "input_tokens_per_minute": input_tokens_per_minute,
            "output_tokens_per_minute": output_tokens_per_minute,
            "concurrency": concurrency,
            "burst_s": burst_s,
            "each_model": each_model,
            "models": {glob: dict(figures) for glob, figures in (models or {}).items()},
        }
        self._ask("PUT", f"/providers/{provider}/limits", document)

    def latency(
        self, provider: str, *, median_s: float, p95_s: float | None = None, per_output_token_s: float = 0.0
    ) -> None:
        """Set a provider's latency in seconds: fixed, or lognormal when `p95_s` is given."""
        document = {"median_s": median_s, "p95_s": p95_s, "per_output_token_s": per_output_token_s}
        self._ask("PUT", f"/providers/{provider}/latency", document)

    def down(self, provider: str) -> None:
        """Close the port: connections are refused, calls in flight are reset."""
        self._ask("POST", f"/providers/{provider}/down")

    def up(self, provider: str) -> None:
        """Open the same port again."""
        self._ask("POST", f"/providers/{provider}/up")

    def reset(self) -> None:
        """Back to how it started; calls in flight are broken off and everything counted is forgotten."""
        self._ask("POST", "/reset")

    def counts(self) -> dict[str, Any]:
        """started, finished, completed, client_gone, in_flight; these and more by provider; credentials asked for."""
        return dict(self._ask("GET", "/counts"))

    def calls(self, since: int = 0, *, provider: str | None = None, running: bool = False) -> list[Call]:
        """Finished calls from number `since` on, in the order they ended; with `running` those in flight after them."""
        return list(self.iter_calls(since, provider=provider, running=running))

    def iter_calls(self, since: int = 0, *, provider: str | None = None, running: bool = False) -> Iterator[Call]:
        """The same, one by one, for logs that are long."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", f"/calls?since={since}&running={int(running)}")
            for line in connection.getresponse():
                call = Call(**orjson.loads(line))
                if provider is None or call.provider == provider:
                    yield call
        finally:
            connection.close()

    def wait_for_calls(
        self, number: int, timeout: float = 10.0, *, provider: str | None = None, of: str = "finished"
    ) -> dict[str, Any]:
        """Wait until so many calls have `started` or `finished` since the last reset; TimeoutError when time is up."""
        query: dict[str, str | int | float] = {"wait": number, "of": of, "timeout": timeout}
        if provider is not None:
            query["provider"] = provider
        counts = dict(self._ask("GET", f"/counts?{urlencode(query)}", timeout=timeout + TIMEOUT_S))
        if not counts["reached"]:
            seen = counts["providers"][provider] if provider is not None else counts
            raise TimeoutError(f"{number} calls {of} awaited for {timeout:g} s, {seen[of]} seen")
        return counts

    def _ask(self, method: str, path: str, document: object = None, *, timeout: float = TIMEOUT_S) -> Any:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        try:
            body = None if document is None else orjson.dumps(document)
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            found = orjson.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            field, message = found.get("field") or "", str(found.get("error"))
            raise ControlError(field, message.removeprefix(f"{field}: "))
        return found
