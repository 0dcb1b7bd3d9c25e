"""Prices of provider calls: genai-prices' lists with Trivet's own dated rules."""
