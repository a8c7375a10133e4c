"""The steps of an agent in the messages of a request: chat, Anthropic's Messages, OpenAI's Responses.

A form is told by the messages themselves. What none of the APIs has is passed over.
"""

import hashlib
import re
from typing import Any, Final

from dedup.answer.agent_loops.notices import is_notice, without_notices
from dedup.answer.agent_loops.scan import LoopScan
from dedup.answer.agent_loops.steps import Call, Step
from dedup.lenient_json import write_json

Json = dict[str, Any]

_RESULT_SUFFIX: Final = "_call_output"  # of items of a response
_IN_SECRET: Final = (
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
)
_CALL_SUFFIX: Final = "_call"
# Messages that harnesses send in the user's name.
_TAGGED: Final = re.compile(
    r"\A\s*(?:<[a-z][\w:-]*[ >]|\[[A-Z][A-Z _:-]+\]|[\[【][\u3040-\u30ff\u4e00-\u9fff]{1,6}[\]】]|\(?System:)"
)
_SYLLABLES: Final = "ba be bi bo bu da de di do du ka ke ki ko ku la".split()
_NO_CALL: Final = re.compile(
    r"\b(?:use a tool|tool call|call a tool|did(?: not|n't) (?:use|call|make)|no tool"
    r"|finish the (?:task|interaction)"
    r"|(?:goal|task|objective|work) (?:is )?not (?:yet )?(?:met|done|finished|complete[d]?))\b"
    r"|调用工具|使用工具|没有(?:使用|调用)|检测到工具",
    re.IGNORECASE,
)
_GO_ON: Final = re.compile(
    r"\b(?:continu(?:e|ing)|proceed|go on|keep going|carry on|resume|next step)\b"
    r"|继续|接着做|下一步|続けて",
    re.IGNORECASE,
)
# Results of calls that an agent makes in words, in a protocol of its harness.
_OBSERVATION: Final = re.compile(
    r"\A\s*(?:\[\w+(?: for [^\n]{0,300})?\] Result:|Observation:|OBSERVATION:|Tool (?:result|output)"
    r"|<(?:tool_result|function_results?|observation|tool_response)\b|EXECUTION RESULT of)",
)
_MAX_GO_ON: Final = 600  # characters
_JUST_GO_ON: Final = re.compile(
    r"\s*(?:please\s+)?(?:continue|proceed|go on|keep going|carry on|resume|继续|请继续|接着)"
    r"[\s.!。！]*\Z",
    re.IGNORECASE,
)


class MessageReader:
    """Reads messages into steps, and feeds those to a scan.

    Args:
        scan: What takes the steps.
    """

    def __init__(self, scan: LoopScan) -> None:
        self.scan = scan
        self.kept: list[tuple[int, MessageReader]] = []  # states ahead of the last steps
        self._keep_from: int | None = None
        self._num_kept = 0
        self._step: Step | None = None  # that is being read
        self._waiting: dict[str, Call] = {}  # its calls without results, by id
        self._is_response = False  # the step is made of items of a response
        self._has_results = False
        self._is_prompted = False  # a harness has missed calls
        self._last_prompt = ""
        self._last_texts: list[str] = []
        self._before_prompt: LoopScan | None = None  # state, behind a text, before the last prompt

    def copy(self) -> "MessageReader":
        """Return a reader, between two steps, in the same state."""
        reader = MessageReader(self.scan.copy())
        reader._last_prompt = self._last_prompt
        reader._last_texts = self._last_texts
        if self._before_prompt is not None:
            reader._before_prompt = self._before_prompt.copy()
        reader._is_prompted = self._is_prompted
        return reader

    def keep_from(self, start: int, num_steps: int) -> None:
        """Keep copies of the state ahead of the last steps, of those that begin at `start` or later.

        `kept` then has up to `num_steps` of them: the index of the first message that the copy has
        not read, and the copy.
        """
        self._keep_from, self._num_kept = start, num_steps

    def read(self, messages: list[Any], start: int, end: int) -> None:
        """Read the messages from `start` to `end`; `flush` behind the last."""
        for index in range(start, end):
            message = messages[index]
            if isinstance(message, dict):
                self._read(message, index)

    def flush(self) -> None:
        """End the step that is being read. One without all its results does not count."""
        step, self._step = self._step, None
        if step is None:
            return
        self._waiting.clear()
        if step.is_complete and (step.calls or (step.text and not is_notice(step.text))):
            self.scan.feed(step)

    def _read(self, message: Json, index: int) -> None:
        role = message.get("role")
        if role == "tool":
            self._take(message.get("tool_call_id"), message.get("content"), is_error=False)
        elif role == "function":
            self._take(message.get("name"), message.get("content"), is_error=False)
        elif role == "assistant":
            self._read_turn(message, index)
        elif role == "user":
            self._read_user(message.get("content"))
        elif role is None:
            self._read_item(message, index)

    # A turn of the agent

    def _read_turn(self, message: Json, index: int) -> None:
        content = message.get("content")
        is_item = message.get("type") == "message"
        if is_item and self._is_open_response:
            self._add_text(_text_of(content))
            return
        self._begin(index)
        self._is_response = is_item
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._call_function(call.get("id"), call.get("function") or call.get("custom"))
        if isinstance(message.get("function_call"), dict):
            function = message["function_call"]
            self._call_function(function.get("name"), function)
        if isinstance(content, list):
            self._read_blocks(content)
        else:
            self._add_text(_text_of(content))

    def _read_blocks(self, blocks: list[Any]) -> None:
        for block in blocks:
            if not isinstance(block, dict):
                continue
            kind = block.get("type")
            if not isinstance(kind, str):
                continue
            if kind.endswith("tool_use"):
                self._call(block.get("id"), block.get("name"), block.get("input"))
            elif kind.endswith("tool_result"):
                is_error = bool(block.get("is_error"))
                self._take(block.get("tool_use_id"), block.get("content"), is_error=is_error)
            elif isinstance(block.get("text"), str):
                self._add_text(block["text"])

    def _read_item(self, item: Json, index: int) -> None:
        kind = item.get("type")
        if not isinstance(kind, str):
            return
        if kind.endswith(_RESULT_SUFFIX):
            is_error = item.get("status") == "failed"
            self._take(item.get("call_id"), item.get("output"), is_error=is_error)
        elif kind.endswith(_CALL_SUFFIX):
            self._begin_item(index)
            self._read_call(item, kind)
        elif kind == "reasoning":
            self._begin_item(index)
        elif isinstance(item.get("content"), str) and kind == "message":
            self._begin(index)

    def _read_call(self, item: Json, kind: str) -> None:
        """Read an item that is a call. One that the server makes has its result with it, or in secret."""
        output = item.get("error") or item.get("output")
        is_servers = kind == "mcp_call" or kind in _IN_SECRET
        if is_servers and output is None:
            return
        key = item.get("call_id") or item.get("id")
        name = f"{item.get('server_label') or ''}{item.get('name') or kind}"
        self._call(key, name, _input_of(item))
        if is_servers:
            self._take(key, output, is_error=bool(item.get("error")))

    @property
    def _is_open_response(self) -> bool:
        """Return whether another item may belong to the step that is being read."""
        step = self._step
        if step is None or not self._is_response or self._has_results:
            return False
        return bool(step.calls) or not step.text

    def _begin_item(self, index: int) -> None:
        """Begin a step with an item, unless it belongs to the one that is being read."""
        step = self._step
        if step is not None and self._is_response and not self._has_results:
            return
        self._begin(index)
        self._is_response = True

    def _begin(self, index: int) -> None:
        self.flush()
        if self._keep_from is not None and index >= self._keep_from:
            self.kept.append((index, self.copy()))
            del self.kept[: -self._num_kept]
        self._step = Step([], is_prompted=self._is_prompted)
        self._is_prompted = False
        self._is_response = self._has_results = False

    def _call_function(self, call_id: object, function: object) -> None:
        if isinstance(function, dict):
            arguments = function.get("arguments", function.get("input"))
            self._call(call_id, function.get("name"), arguments)

    def _call(self, call_id: object, name: object, arguments: Any) -> None:
        if self._step is None:
            return
        call = Call(str(name), arguments if arguments is not None else "", has_result=False)
        self._step.calls.append(call)
        key = str(call_id) if call_id else f"#{len(self._waiting)}"
        self._waiting[key] = call

    def _add_text(self, text: str) -> None:
        if self._step is not None and text:
            self._step.text += text

    def _take(self, call_id: object, content: Any, *, is_error: bool) -> None:
        """Take the result of a call."""
        key = str(call_id)
        if not call_id and self._waiting:  # calls without ids have their results in order
            key = next(iter(self._waiting))
        call = self._waiting.pop(key, None)
        if call is None:
            return
        self._has_results = True
        call.take(_text_of(content), is_error=is_error)

    # The user

    def _read_user(self, content: Any) -> None:
        has_results = False
        texts: list[str] = []
        if isinstance(content, str):
            texts.append(content)
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                continue
            kind = part.get("type")
            if isinstance(kind, str) and kind.endswith("tool_result"):
                has_results = True
                is_error = bool(part.get("is_error"))
                self._take(part.get("tool_use_id"), part.get("content"), is_error=is_error)
            elif isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif isinstance(kind, str) and not has_results:
                texts.append(kind)  # an image, say
        if not has_results and self._read_observation(texts):
            return
        prompt = without_notices("\n".join([text for text in texts if not _TAGGED.match(text)]))
        prompt = prompt.strip()
        is_repeated = prompt == self._last_prompt
        is_users = bool(prompt) and not self._is_automatic(prompt, has_results=has_results)
        if is_users or (self._step is not None and self._step.is_complete):
            self.flush()
        if is_users:
            self._before_prompt = self.scan.copy() if self.scan.ends_in_text else None
            self.scan.reset(prompt)
        elif is_repeated and self._before_prompt is not None:
            self.scan = self._before_prompt.joined(self.scan)
            self._before_prompt = None
        misses_calls = any(map(_NO_CALL.search, texts)) or (texts == self._last_texts != [])
        self._is_prompted = misses_calls and not (is_users or _JUST_GO_ON.match(prompt))
        self._last_texts = texts

    def _read_observation(self, texts: list[str]) -> bool:
        """Take a message with the result of a call made in words; return whether it is one."""
        step = self._step
        if step is None or step.calls or not step.text or len(texts) != 1:
            return False
        if not _OBSERVATION.match(texts[0]):
            return False
        step.calls.append(Call("", step.text, texts[0]))
        step.text = ""
        self.flush()
        return True

    def _is_automatic(self, prompt: str, *, has_results: bool) -> bool:
        """Return whether a harness, and no person, has sent a prompt."""
        last, self._last_prompt = self._last_prompt, prompt
        if _JUST_GO_ON.match(prompt):
            return True
        if has_results or self._has_results:
            return prompt == last
        if prompt == last and _GO_ON.search(prompt) is not None:
            return True
        return len(prompt) <= _MAX_GO_ON and _NO_CALL.search(prompt) is not None


def _input_of(item: Json) -> Any:
    """Return the arguments of a call that is an item of a response."""
    for name in ("arguments", "input", "action", "operation", "queries", "code"):
        if item.get(name) is not None:
            return item[name]
    return ""


def _text_of(content: Any) -> str:
    """Return the text of a message or a result; of other content, its JSON."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        texts: list[str] = []
        for part in content:
            text = part.get("text") if isinstance(part, dict) else part
            texts.append(text if isinstance(text, str) else _opaque(part))
        return "\n".join(texts)
    return _opaque(content)


def _opaque(value: Any) -> str:
    """Return words for what is no text, an image, say: the same for the same alone."""
    digest = hashlib.sha1(write_json(value), usedforsecurity=False).hexdigest()
    return " ".join(_SYLLABLES[int(digit, 16)] for digit in digest)
