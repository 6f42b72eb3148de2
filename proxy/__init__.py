"""Reprise: an OpenAI-compatible caching reverse proxy. Start reading at `gateway.py`."""
