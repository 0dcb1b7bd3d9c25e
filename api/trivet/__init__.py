"""Trivet: a durable queue for Claude jobs over Amazon Bedrock, Google Vertex AI and the Anthropic API."""
