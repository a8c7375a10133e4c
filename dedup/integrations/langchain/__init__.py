"""LangChain: middleware for agents in loops, and a filter behind a chat model."""

from dedup.integrations.langchain.middleware import AgentLoopMiddleware
from dedup.integrations.langchain.runnable import RunnableRepetitionFilter

__all__ = ["AgentLoopMiddleware", "RunnableRepetitionFilter"]
