"""Pydantic AI: a capability that filters answers and leads agents out of loops."""

from dedup.integrations.pydantic_ai.guard import RepetitionGuard, RepetitionModel

__all__ = ["RepetitionGuard", "RepetitionModel"]
