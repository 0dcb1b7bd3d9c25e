// The official TypeScript client, unmodified, against the gateway: each line of its output is a check that passed.
// The simulated model calls the tool where one is given and no result is there yet, else it says "Yes.".

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const { GATEWAY_URL: baseURL, GATEWAY_KEY: apiKey, GATEWAY_HAIKU_KEY: haikuKey, GATEWAY_SLOW_KEY: slowKey } = process.env;
const model = "claude-haiku-4-5";
const options = { baseURL, apiKey, maxRetries: 0, timeout: 60_000 };
const client = new Anthropic(options);
const asked = { model, max_tokens: 64, messages: [{ role: "user", content: "Say yes." }] };
const tool = {
  name: "get_weather",
  description: "Get the weather of a city.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

const checks = {
  async message() {
    const message = await client.messages.create(asked);
    assert.equal(message.content[0].text, "Yes.");
    assert.equal(message.stop_reason, "end_turn");
    assert.ok(message._request_id);
  },

  async headers() {
    const { response, request_id: id } = await client.messages.create(asked).withResponse();
    assert.ok(id);
    assert.match(response.headers.get("x-trivet-job"), /^[0-9a-f]{32}$/);
    assert.ok(response.headers.get("x-trivet-route"));
  },

  async stream() {
    const stream = client.messages.stream(asked);
    const texts = [];
    stream.on("text", (text) => texts.push(text));
    const message = await stream.finalMessage();
    assert.equal(texts.join(""), "Yes.");
    assert.equal(message.stop_reason, "end_turn");
    assert.ok(message.usage.output_tokens > 0);
  },

  async events() {
    const kinds = [];
    for await (const event of await client.messages.create({ ...asked, stream: true })) {
      kinds.push(event.type);
    }
    assert.equal(kinds[0], "message_start");
    assert.equal(kinds.at(-1), "message_stop");
  },

  async tool() {
    const turns = [{ role: "user", content: "How is the weather in Oslo?" }];
    const first = await client.messages.create({ ...asked, messages: turns, tools: [tool] });
    assert.equal(first.stop_reason, "tool_use");
    const call = first.content.find((block) => block.type === "tool_use");
    assert.deepEqual(call.input, { city: "Oslo" });
    turns.push({ role: "assistant", content: first.content });
    turns.push({ role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "sunny" }] });
    const second = await client.messages.create({ ...asked, messages: turns, tools: [tool] });
    assert.equal(second.content[0].text, "Yes.");
  },

  async tool_stream() {
    const stream = client.messages.stream({ ...asked, tools: [tool] });
    const message = await stream.finalMessage();
    assert.deepEqual(message.content.find((block) => block.type === "tool_use").input, { city: "Oslo" });
  },

  async beta() {
    const message = await client.beta.messages.create({ ...asked, betas: ["context-management-2025-06-27"] });
    assert.equal(message.content[0].text, "Yes.");
  },

  async count_tokens() {
    const { input_tokens: tokens } = await client.messages.countTokens({ model, messages: asked.messages });
    assert.ok(tokens > 0);
  },

  async models() {
    const ids = [];
    for await (const one of client.models.list({ limit: 2 })) {
      ids.push(one.id);
    }
    assert.ok(ids.length > 2);
    assert.equal(new Set(ids).size, ids.length);
    const found = await client.models.retrieve(`${model}-20251001`);
    assert.equal(found.id, model);
    assert.ok(found.trivet.routes.length > 1);
  },

  async errors() {
    const expected = [
      [{ ...asked, max_tokens: 0 }, {}, Anthropic.BadRequestError, 400, "invalid_request_error"],
      [asked, { apiKey: "none" }, Anthropic.AuthenticationError, 401, "authentication_error"],
      [{ ...asked, model: "claude-opus-5-5" }, { apiKey: haikuKey }, Anthropic.PermissionDeniedError, 403, "permission_error"],
    ];
    for (const [request, changes, kind, status, type] of expected) {
      const error = await caught(() => new Anthropic({ ...options, ...changes }).messages.create(request));
      assert.ok(error instanceof kind, `${error}`);
      assert.equal(error.status, status);
      assert.equal(error.error.error.type, type);
      assert.ok(error.requestID);
    }
    const none = await caught(() => client.models.retrieve("claude-none"));
    assert.ok(none instanceof Anthropic.NotFoundError, `${none}`);
  },

  async conflict() {
    const headers = { "idempotency-key": `order-${process.pid}` };
    await client.messages.create(asked, { headers });
    const other = { ...asked, messages: [{ role: "user", content: "Say no." }] };
    const error = await caught(() => client.messages.create(other, { headers }));
    assert.ok(error instanceof Anthropic.ConflictError, `${error}`);
  },

  async rate_limit() {
    const slow = new Anthropic({ ...options, apiKey: slowKey });
    const error = await caught(async () => {
      await slow.messages.create(asked);
      await slow.messages.create(asked);
      await slow.messages.create(asked);
    });
    assert.ok(error instanceof Anthropic.RateLimitError, `${error}`);
    assert.ok(Number(error.headers.get("retry-after")) >= 1);
  },
};

async function caught(call) {
  try {
    await call();
  } catch (error) {
    return error;
  }
  throw new assert.AssertionError({ message: "nothing was thrown" });
}

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(name);
}
