// Messages, a stream and a token count through a Trivet gateway, with the official client as it is.
//
//   npm install @anthropic-ai/sdk
//   export ANTHROPIC_BASE_URL=http://127.0.0.1:8080
//   export ANTHROPIC_API_KEY="$(cat .trivet/gateway.key)"
//   node gateway_client.mjs "Summarise: …"

import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic();
const request = {
  model: "claude-haiku-4-5",
  max_tokens: 300,
  messages: [{ role: "user", content: process.argv[2] ?? "Say hello." }],
};

const { input_tokens } = await client.messages.countTokens({ model: request.model, messages: request.messages });
console.log(`${input_tokens} tokens`);

const { data: message, response } = await client.messages.create(request).withResponse();
console.log(message.content.map((block) => (block.type === "text" ? block.text : "")).join(""));
console.log(`by ${response.headers.get("x-trivet-route")} for $${response.headers.get("x-trivet-cost-usd")}`);

for await (const event of client.messages.stream(request)) {
  if (event.type === "content_block_delta" && event.delta.type === "text_delta") {
    process.stdout.write(event.delta.text);
  }
}
console.log();
