"""Scripted models with tools: what each answers, told from the conversation alone."""

from dataclasses import dataclass
from typing import Literal

Call = tuple[str, str | int]  # a tool's name, and its one argument

NOTHING = "No entry was found."
NO_HITS = "0 results."
FAILED = "1 test failed."
CHANGED = "The line was changed."
STATES = ("queued", "fetching", "unpacking", "compiling", "linking", "testing", "done")
RESULTS = {NOTHING, NO_HITS, FAILED, CHANGED, *STATES}
PARAMETERS = {"look_up": "city", "search": "query", "status": "job", "edit": "line"}


QUESTION = "How many people live in Delft?"
FINAL = "I could not find an entry for Delft."
THANKS = "Thank you. That is all."
WELCOME = "You are welcome."
THOUGHT = "The user asks for Delft. I should look it up before I answer."
SAYING = "Let me look that up."

LOOK_UP: Call = ("look_up", "Delft")
SEARCH: Call = ("search", "population of Delft")


@dataclass(frozen=True)
class Conversation:
    """A request as a model sees it, whatever the API.

    Attributes:
        num_rounds: Answers with calls since the user's last message.
        results: Results of the last of them; empty if the user spoke last.
        may_call: Whether the request allows calls.
        num_questions: Messages of the user.
    """

    num_rounds: int
    results: tuple[str, ...]
    may_call: bool
    num_questions: int

    @property
    def has_notice(self) -> bool:
        """Return whether the last result holds more than the tool returned."""
        return bool(self.results) and self.results[-1] not in RESULTS


@dataclass(frozen=True)
class Answer:
    text: str = ""
    calls: tuple[Call, ...] = ()
    thought: str = ""


@dataclass(frozen=True)
class Model:
    """A model that makes the same rounds of calls until something stops it.

    Attributes:
        rounds: The calls of each round. The first follows the last, unless `ends`.
        heeds: What makes it answer: a notice in the last result or a forbidden call; a forbidden
            call alone; nothing.
        ends: Whether it answers behind its last round, as a model does that is not in a loop.
        thinks: Whether it reasons before each answer.
        says: What it says before each round of calls.
        instead: The call that it makes when it heeds a notice, before it answers.
    """

    rounds: tuple[tuple[Call, ...], ...] = ((LOOK_UP,),)
    heeds: Literal["notice", "choice", "nothing"] = "notice"
    ends: bool = False
    thinks: bool = False
    says: str = ""
    instead: Call | None = None

    def answer(self, conversation: Conversation) -> Answer:
        thought = THOUGHT if self.thinks else ""
        if conversation.num_questions > 1:
            return Answer(WELCOME, thought=thought)
        if self._is_stopped(conversation):
            if self.instead and conversation.may_call and conversation.has_notice:
                return Answer(calls=(self.instead,), thought=thought)
            return Answer(FINAL, thought=thought)
        calls = self.rounds[conversation.num_rounds % len(self.rounds)]
        return Answer(self.says, calls, thought)

    def _is_stopped(self, conversation: Conversation) -> bool:
        if self.ends and conversation.num_rounds >= len(self.rounds):
            return True
        if self.heeds == "nothing":
            return False
        if not conversation.may_call or (self.instead and NO_HITS in conversation.results):
            return True
        return self.heeds == "notice" and conversation.has_notice


def _cities() -> tuple[tuple[Call, ...], ...]:
    return tuple(
        (("look_up", city),) for city in "Delft Leiden Gouda Breda Venlo Assen Goes".split()
    )


def _repairs() -> tuple[tuple[Call, ...], ...]:
    rounds: list[tuple[Call, ...]] = [(("status", "build"),)]
    for line in range(4):
        rounds += [(("edit", line),), (("status", "build"),)]
    return tuple(rounds)


LOOPING = {
    "heeds-notice": Model(),
    "heeds-choice": Model(heeds="choice"),
    "heeds-nothing": Model(heeds="nothing"),
    "alternates": Model(((LOOK_UP,), (SEARCH,))),
    "parallel": Model(((LOOK_UP, SEARCH),)),
    "reasons": Model(thinks=True),
    "reasons-on": Model(thinks=True, heeds="choice"),
    "talks": Model(says=SAYING),
    "changes": Model(instead=SEARCH),
}
HEALTHY = {  # in none of them does a call repeat with its result and no other call between
    "tries": Model(_cities(), ends=True),
    "polls": Model(((("status", "import"),),) * len(STATES), ends=True),
    "repairs": Model(_repairs(), ends=True),
}
MODELS = LOOPING | HEALTHY


class Tools:
    """The tools, which record how they are called."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def look_up(self, city: str) -> str:
        """Look up a city in the register."""
        self.calls.append(("look_up", city))
        return NOTHING

    def search(self, query: str) -> str:
        """Search all documents."""
        self.calls.append(("search", query))
        return NO_HITS

    def status(self, job: str) -> str:
        """Tell how far a job is."""
        self.calls.append(("status", job))
        if job == "import":
            return STATES[self.calls.count(("status", job)) - 1]
        return FAILED

    def edit(self, line: int) -> str:
        """Change a line."""
        self.calls.append(("edit", line))
        return CHANGED

    def run(self, name: str, arguments: dict[str, str | int]) -> str:
        tool = {"look_up": self.look_up, "search": self.search, "status": self.status}
        if name == "edit":
            return self.edit(int(arguments["line"]))
        return tool[name](str(arguments[PARAMETERS[name]]))
