"""Tool calls that a model writes into its text, as Hermes, Qwen and SmolLM models do:

<tool_call>
{"name": "look_up", "arguments": {"city": "Delft"}}
</tool_call>
"""

import uuid
from typing import Any, Final

from dedup.answer.frame import CONTENT, Delta
from dedup.lenient_json import read_json, write_json
from dedup_server.engines.local.choice import overlap

BEGIN: Final = "<tool_call>"
_END: Final = "</tool_call>"


def takes_tools(chat_template: Any) -> bool:
    """Return whether a chat template offers tools, and has their calls written in this form."""
    template = str(chat_template)
    return "tools" in template and BEGIN in template


class ToolCallReader:
    """Tells the calls in a text from what is said.

    A call that is not valid JSON, or does not end, stays text.

    Args:
        choice: Index of the choice whose text it is.
    """

    def __init__(self, choice: int) -> None:
        self.num_calls = 0
        self._choice = choice
        self._space: str | None = None  # behind a call, until something is said
        self._searched = 0  # characters of what is held that hold no end of a call
        self._held = ""  # may be the beginning of a mark, or is a call that has not ended

    def feed(self, text: str) -> list[Delta]:
        """Take a piece of the text; return what it completes."""
        self._held += text
        deltas: list[Delta] = []
        while True:
            begin = self._held.find(BEGIN)
            if begin < 0:
                begin = len(self._held) - overlap(self._held, BEGIN)
                self._say(deltas, begin)
                return deltas
            self._say(deltas, begin)
            end = self._held.find(_END, self._searched)
            if end < 0:
                self._searched = max(0, len(self._held) - len(_END))
                return deltas
            whole = end + len(_END)
            deltas.append(self._call(self._held[len(BEGIN) : end]) or self._text(whole))
            self._held, self._searched = self._held[whole:], 0

    def flush(self) -> list[Delta]:
        """Return the rest, at the text's end."""
        held = self._held
        if not held:
            return []
        call = self._call(held.removeprefix(BEGIN)) if held.startswith(BEGIN) else None
        found = call or self._text(len(held))
        self._held = ""
        return [found]

    def _say(self, deltas: list[Delta], size: int) -> None:
        """Release the first characters of what is held."""
        said, self._held = self._held[:size], self._held[size:]
        if self._space is not None:
            said, self._space = self._space + said, None
            if not said.strip():
                self._space = said
                return
        if said:
            deltas.append(Delta(self._choice, CONTENT, CONTENT, said))

    def _text(self, size: int) -> Delta:
        said, self._space = (self._space or "") + self._held[:size], None
        return Delta(self._choice, CONTENT, CONTENT, said)

    def _call(self, text: str) -> Delta | None:
        """Return a call; None if the text is none."""
        try:
            call = read_json(text.encode("utf-8", "surrogatepass"))
        except ValueError:
            return None
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return None
        arguments = call.get("arguments", call.get("parameters")) or {}
        given = arguments if isinstance(arguments, str) else write_json(arguments).decode()
        self._space = ""
        part = f"tool_calls.{self.num_calls}"
        self.num_calls += 1
        tool = (f"call_{uuid.uuid4().hex[:24]}", call["name"])
        return Delta(self._choice, "tool_arguments", part, given or "{}", ends=True, tool=tool)
