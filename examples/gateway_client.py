"""Messages, a stream and a token count through a Trivet gateway, with the official client as it is.

pip install anthropic
export ANTHROPIC_BASE_URL=http://127.0.0.1:8080
export ANTHROPIC_API_KEY="$(cat .trivet/gateway.key)"
python gateway_client.py "Summarise: …"
"""

import sys

import anthropic

MODEL = "claude-haiku-4-5"


def main() -> None:
    """Count the tokens of a prompt, have it answered, and have it answered again in a stream."""
    client = anthropic.Anthropic()
    messages: list[anthropic.types.MessageParam] = [
        {"role": "user", "content": sys.argv[1] if len(sys.argv) > 1 else "Say hello."}
    ]
    counted = client.messages.count_tokens(model=MODEL, messages=messages)
    print(f"{counted.input_tokens} tokens")

    response = client.messages.with_raw_response.create(model=MODEL, max_tokens=300, messages=messages)
    print("".join(block.text for block in response.parse().content if block.type == "text"))
    print(f"by {response.headers['x-trivet-route']} for ${response.headers['x-trivet-cost-usd']}")

    with client.messages.stream(model=MODEL, max_tokens=300, messages=messages) as stream:
        for text in stream.text_stream:
            print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
