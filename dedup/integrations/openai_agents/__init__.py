"""OpenAI Agents SDK: a model that filters answers and leads agents out of loops, and a guardrail."""

from dedup.integrations.openai_agents.guardrail import AgentLoopGuardrail
from dedup.integrations.openai_agents.model import RepetitionModel

__all__ = ["AgentLoopGuardrail", "RepetitionModel"]
