"""Agent loops: an agent that makes the same tool calls again and again, and gets the same results.

    messages -> MessageReader -> Step -> LoopScan -> AgentLoop

Pure: all of it is read from the messages of one request.
"""

from dedup.answer.agent_loops.finding import LoopFinder, find_loop
from dedup.answer.agent_loops.guard import AgentGuard, Verdict
from dedup.answer.agent_loops.ladder import Climb, Ladder, Rung
from dedup.answer.agent_loops.scan import AgentLoop
from dedup.answer.agent_loops.steps import Call, Step

__all__ = [
    "AgentGuard",
    "AgentLoop",
    "Call",
    "Climb",
    "Ladder",
    "LoopFinder",
    "Rung",
    "Step",
    "Verdict",
    "find_loop",
]
