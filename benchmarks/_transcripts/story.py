"""A transcript under construction, in the request form of one API."""

import json
import random
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

Api = Literal["chat", "messages", "responses"]
Item = dict[str, Any]

COPIES_THAT_COUNT: Final = 4  # recall is measured at this copy
ALPHABET: Final = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Call:
    """A tool call and its result.

    Args:
        name: Tool.
        arguments: Object; a string for a custom tool of the Responses API.
        result: Text that the tool returned.
        error: True if the harness marked the result as an error.
        image: Base64 of a screenshot that the result has besides; the Messages API alone.
    """

    name: str
    arguments: dict[str, Any] | str
    result: str
    error: bool = False
    image: str = ""


class Story:
    """A transcript, written turn by turn.

    Args:
        name: Id, unique in its file.
        api: Request form.
        kind: Kind of the loop or of the legitimate case.
        source: URLs of the reports whose structure it follows.
        cycle: Turns a copy of the loop has; 0 if it is legitimate.
        repeatable: Tools that the operator marked as repeatable.
    """

    def __init__(
        self,
        name: str,
        api: Api,
        kind: str,
        source: str,
        *,
        cycle: int = 0,
        repeatable: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.api = api
        self.kind = kind
        self.source = source
        self.cycle = cycle
        self.repeatable = list(repeatable)
        self.items: list[Item] = []
        self.random = random.Random(name)
        self.instructions: str | None = None
        self.reminder: str | None = None
        self.blocks = False  # results as a list of text blocks, not as a string
        self.first: int | None = None
        self.fourth: int | None = None
        self.num_copies = 0
        self.ended: int | None = None

    def system(self, text: str) -> None:
        """Set the system prompt, where the API has its place for one."""
        if self.api == "chat":
            self.items.append({"role": "system", "content": text})
        else:
            self.instructions = text

    def user(self, text: str) -> None:
        """Append a user message."""
        if self.api == "messages":
            content: Any = [{"type": "text", "text": text}]
            if self.items and self.items[-1]["role"] == "user":
                self.items[-1]["content"] += content
                return
        elif self.api == "responses":
            content = [{"type": "input_text", "text": text}]
        else:
            content = text
        self.items.append(self._message("user", content))

    def say(self, text: str, think: str = "") -> None:
        """Append an assistant turn without tool calls."""
        self.turn(text=text, think=think)

    def turn(self, *calls: Call, text: str = "", think: str = "") -> None:
        """Append an assistant turn and the results of its calls."""
        ids = [self._call_id() for _ in calls]
        if self.api == "chat":
            self._chat(calls, ids, text, think)
        elif self.api == "messages":
            self._messages(calls, ids, text, think)
        else:
            self._responses(calls, ids, text, think)
        self.reminder = None

    @contextmanager
    def copy(self) -> Iterator[int]:
        """Mark what is appended meanwhile as one copy of the loop; yield its number from 0."""
        if self.first is None:
            self.first = len(self.items)
        yield self.num_copies
        self.num_copies += 1
        if self.num_copies == COPIES_THAT_COUNT:
            self.fourth = len(self.items)

    def loop_ends(self) -> None:
        """Mark that a loop ends here and that the agent goes on with something else."""
        self.ended = len(self.items)

    def line(self) -> Item:
        """Return the line of the transcript file."""
        record: Item = {"id": self.name, "api": self.api}
        if self.instructions is not None:
            record["system" if self.api == "messages" else "instructions"] = self.instructions
        record["input" if self.api == "responses" else "messages"] = self.items
        record["label"] = "loop" if self.cycle else "legitimate"
        record["kind"] = self.kind
        if self.cycle:
            record |= {"cycle": self.cycle, "from": self.first, "fourth": self.fourth}
        if self.ended is not None:
            record["ended"] = self.ended
        record["source"] = self.source
        if self.repeatable:
            record["repeatable"] = self.repeatable
        return record

    def token(self, length: int) -> str:
        """Return random letters and digits, the same ones in every build."""
        return "".join(self.random.choices(ALPHABET, k=length))

    def _call_id(self) -> str:
        if self.api == "messages":
            return "toolu_01" + self.token(22)
        return "call_" + self.token(24)

    def _content(self, call: Call) -> Any:
        if not self.blocks and not call.image:
            return call.result
        blocks: list[Item] = [{"type": "text", "text": call.result}]
        if call.image:
            source = {"type": "base64", "media_type": "image/png", "data": call.image}
            blocks.append({"type": "image", "source": source})
        return blocks

    def _message(self, role: str, content: Any) -> Item:
        if self.api == "responses":
            return {"type": "message", "role": role, "content": content}
        return {"role": role, "content": content}

    def _chat(self, calls: Sequence[Call], ids: Sequence[str], text: str, think: str) -> None:
        message = self._message("assistant", text or None)
        if think:
            message["reasoning_content"] = think
        if calls:
            message["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _dumped(call.arguments)},
                }
                for call, call_id in zip(calls, ids, strict=True)
            ]
        self.items.append(message)
        for call, call_id in zip(calls, ids, strict=True):
            content = self._content(call)
            self.items.append({"role": "tool", "tool_call_id": call_id, "content": content})
        if self.reminder:
            self.items[-1]["content"] += "\n\n" + self.reminder

    def _messages(self, calls: Sequence[Call], ids: Sequence[str], text: str, think: str) -> None:
        blocks: list[Item] = []
        if think:
            blocks.append({"type": "thinking", "thinking": think, "signature": self.token(64)})
        if text:
            blocks.append({"type": "text", "text": text})
        results: list[Item] = []
        for call, call_id in zip(calls, ids, strict=True):
            blocks.append(
                {"type": "tool_use", "id": call_id, "name": call.name, "input": call.arguments}
            )
            result: Item = {
                "type": "tool_result",
                "tool_use_id": call_id,
                "content": self._content(call),
            }
            if call.error:
                result["is_error"] = True
            results.append(result)
        self.items.append({"role": "assistant", "content": blocks})
        if self.reminder:
            results.append({"type": "text", "text": self.reminder})
        if results:
            self.items.append({"role": "user", "content": results})

    def _responses(self, calls: Sequence[Call], ids: Sequence[str], text: str, think: str) -> None:
        if think:
            summary = [{"type": "summary_text", "text": think}]
            self.items.append(
                {"type": "reasoning", "id": "rs_" + self.token(24), "summary": summary}
            )
        if text:
            self.items.append(self._message("assistant", [{"type": "output_text", "text": text}]))
        for call, call_id in zip(calls, ids, strict=True):
            self.items.append(_response_call(call, call_id))
        for call, call_id in zip(calls, ids, strict=True):
            kind = "custom_tool_call" if isinstance(call.arguments, str) else "function_call"
            output = {"type": f"{kind}_output", "call_id": call_id, "output": call.result}
            self.items.append(output)
        if self.reminder:
            self.items[-1]["output"] += "\n\n" + self.reminder


def _response_call(call: Call, call_id: str) -> Item:
    if isinstance(call.arguments, str):
        return {
            "type": "custom_tool_call",
            "call_id": call_id,
            "name": call.name,
            "input": call.arguments,
        }
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": call.name,
        "arguments": _dumped(call.arguments),
    }


def _dumped(arguments: dict[str, Any] | str) -> str:
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False)
