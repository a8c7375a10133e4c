"""A plugin for vLLM."""
