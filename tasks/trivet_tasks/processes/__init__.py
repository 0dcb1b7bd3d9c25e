"""Signals, titles and starts that every process of Trivet shares."""
