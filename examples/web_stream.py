"""A web page that shows an answer while it comes, over Trivet's gateway.

    pip install anthropic starlette uvicorn
    export ANTHROPIC_BASE_URL=http://127.0.0.1:8080 ANTHROPIC_API_KEY=trivet_…
    python web_stream.py --port 8000

The browser knows this server alone; the key stays here. A visitor who closes the page ends the stream, which ends the
call. With FastAPI it is the same: `app.get("/ask")` in place of `Route`, the rest as it stands.
"""

import argparse
import json
from collections.abc import AsyncIterator

import anthropic
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

MODEL = "claude-haiku-4-5"
MAX_QUESTION = 2_000

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Ask</title>
<form><input name="question" size="60" value="Tell me a short story."><button>Ask</button></form>
<p id="answer" style="white-space: pre-wrap"></p>
<script>
  const form = document.querySelector("form"), answer = document.getElementById("answer");
  let source;
  form.onsubmit = event => {
    event.preventDefault();
    source?.close();
    answer.textContent = "";
    source = new EventSource("/ask?" + new URLSearchParams(new FormData(form)));
    source.onmessage = event => { answer.textContent += JSON.parse(event.data); };
    source.addEventListener("failed", event => { answer.textContent += "\\n" + JSON.parse(event.data); source.close(); });
    source.addEventListener("done", () => source.close());
    // left open it would connect again by itself: a second call, paid, and its text behind the first half
    source.onerror = () => { answer.textContent += "\\nThe answer broke off."; source.close(); };
  };
</script>
"""

client = anthropic.AsyncAnthropic()


async def page(_: Request) -> Response:
    """Return the page."""
    return HTMLResponse(PAGE)


async def ask(request: Request) -> Response:
    """Return the answer to a question as server-sent events."""
    question = request.query_params.get("question", "")[:MAX_QUESTION] or "Say hello."
    return StreamingResponse(answer(question), media_type="text/event-stream", headers={"cache-control": "no-cache"})


async def answer(question: str) -> AsyncIterator[str]:
    """Yield the pieces of an answer. Starlette closes this generator when the browser has gone: the job is cancelled."""
    try:
        async with client.messages.stream(
            model=MODEL, max_tokens=500, messages=[{"role": "user", "content": question}]
        ) as stream:
            async for text in stream.text_stream:
                yield f"data: {json.dumps(text)}\n\n"
    except anthropic.APIError as error:
        yield f"event: failed\ndata: {json.dumps(f'The answer broke off: {error.message}')}\n\n"
    else:
        yield "event: done\ndata: {}\n\n"


app = Starlette(routes=[Route("/", page), Route("/ask", ask)])

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A web page that shows an answer while it comes.")
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, port=parser.parse_args().port)
