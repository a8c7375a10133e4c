"""Rules by which agent harnesses detect loops, rebuilt from their published sources.

Each function takes the steps of a history and returns whether the harness would have acted by their end: with a
notice to the model (`*_notice`) or by stopping the turn or asking the user. Rules that ask a language model are left out.
"""

import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final


@dataclass(frozen=True)
class Called:
    """A tool call and its result.

    Args:
        name: Tool.
        arguments: Parsed object, or text where it is not JSON.
        result: Text of the result.
        is_error: True if the request marks the result as an error.
    """

    name: str
    arguments: Any
    result: str
    is_error: bool = False

    @property
    def failed(self) -> bool:
        """Return whether the call failed, as far as its result tells."""
        head = self.result[:500].lower()
        code = EXIT_CODE.search(self.result[:500]) or EXIT_CODE.search(self.result[-80:])
        return (
            self.is_error
            or (code is not None and code.group(1) != "0")
            or '"error"' in head
            or '"failed"' in head
            or head.startswith("error")
        )


@dataclass(frozen=True)
class Step:
    """An assistant turn with its calls, or a user message.

    Args:
        text: Text of the message.
        calls: Calls, in order.
        user: True for a user message.
    """

    text: str = ""
    calls: tuple[Called, ...] = ()
    user: bool = False


Rule = Callable[[Sequence[Step]], bool]
EXIT_CODE: Final = re.compile(
    r"(?:exit_code\"?: ?|exited with code |exit code )(-?\d+)", re.IGNORECASE
)


def _sorted_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


# gemini-cli ---------------------------------------------------------------------------------------

GEMINI_LAPS: Final = 5
GEMINI_PERIODS: Final = 5
CHUNK_CHARS: Final = 50
CHUNK_COPIES: Final = 10
STRUCTURE: Final = re.compile(r"```|^\s*\|.*\||^\s*[*+-]\s|^\s*\d+\.\s|^#+\s|^>\s", re.MULTILINE)


def gemini_cli(steps: Sequence[Step]) -> bool:
    """Apply the rule of google-gemini/gemini-cli@5411f113, services/loopDetectionService.ts.

    Calls with equal name and arguments (key order matters), in a cycle of 1 to 5 calls made 5 times, results not
    looked at; or a text in which a chunk of 50 characters stands 10 times, close together. Forgets at a user message.
    """
    history: deque[str] = deque(maxlen=GEMINI_LAPS * GEMINI_PERIODS)
    text = ""
    for step in steps:
        if step.user:
            history.clear()
            text = ""
            continue
        text = step.text if STRUCTURE.search(step.text) else text + step.text
        if not STRUCTURE.search(text) and _chants(text):
            return True
        for call in step.calls:
            text = ""
            history.append(f"{call.name}:{json.dumps(call.arguments, ensure_ascii=False)}")
            if _cycles(list(history)):
                return True
    return False


def _cycles(history: list[str]) -> bool:
    for period in range(1, GEMINI_PERIODS + 1):
        tail = history[-period * GEMINI_LAPS :]
        if len(tail) == period * GEMINI_LAPS and tail == tail[-period:] * GEMINI_LAPS:
            return True
    return False


def _chants(text: str) -> bool:
    places: dict[str, list[int]] = {}
    for start in range(len(text) - CHUNK_CHARS + 1):
        found = places.setdefault(text[start : start + CHUNK_CHARS], [])
        found.append(start)
        recent = found[-CHUNK_COPIES:]
        if len(recent) < CHUNK_COPIES or recent[-1] - recent[0] > CHUNK_CHARS * 5 * (
            CHUNK_COPIES - 1
        ):
            continue
        periods = {text[a:b] for a, b in pairwise(recent)}
        if len(periods) <= CHUNK_COPIES // 2:
            return True
    return False


# opencode -----------------------------------------------------------------------------------------

DOOM_LOOP: Final = 3


def opencode(steps: Sequence[Step]) -> bool:
    """Apply the rule of anomalyco/opencode@002d9822, packages/opencode/src/session/processor.ts.

    The last 3 parts of ONE assistant message are the same call (tool and JSON of the input). Asks the user.
    """
    return any(_doomed([step]) for step in steps)


def opencode_across(steps: Sequence[Step]) -> bool:
    """Apply opencode's rule across messages, as its documentation reads."""
    return _doomed([step for step in steps if not step.user])


def _doomed(steps: Sequence[Step]) -> bool:
    run: deque[str] = deque(maxlen=DOOM_LOOP)
    for step in steps:
        for call in step.calls:
            run.append(f"{call.name}:{json.dumps(call.arguments, ensure_ascii=False)}")
            if len(run) == DOOM_LOOP and len(set(run)) == 1:
                return True
    return False


# cline --------------------------------------------------------------------------------------------

CLINE_SOFT: Final = 3
CLINE_HARD: Final = 5
CLINE_TOTAL: Final = 20


def cline_notice(steps: Sequence[Step]) -> bool:
    """Apply the soft threshold of `cline`: the third identical call in a row."""
    return _cline(steps, CLINE_SOFT)


def cline(steps: Sequence[Step]) -> bool:
    """Apply the rule of cline/cline@0377e94a, sdk/packages/core/src/runtime/safety/loop-detection.ts.

    The fifth identical call in a row (name, JSON with sorted keys; equal calls of a turn count once); a successful result
    that differs from the last one resets the run. Or 20 turns with that call, less those after which a percentage in
    the result rose. A user message resets nothing.
    """
    return _cline(steps, CLINE_HARD)


@dataclass
class _Signature:
    total: int = 0
    output: str | None = None
    percent: int | None = None
    progressed: bool = False


def _cline(steps: Sequence[Step], threshold: int) -> bool:
    seen: dict[str, _Signature] = {}
    last, run = "", 0
    for step in steps:
        batches: dict[str, list[Called]] = {}
        for call in step.calls:
            batches.setdefault(_sorted_json([call.name, call.arguments]), []).append(call)
        for key in batches:
            signature = seen.setdefault(key, _Signature())
            if signature.progressed:
                last, run, signature.progressed = "", 0, False
            run = run + 1 if key == last else 1
            last = key
            if run >= threshold or signature.total + 1 >= CLINE_TOTAL:
                return True
        for key, calls in batches.items():
            _finish(seen[key], calls)
    return False


def _finish(signature: _Signature, calls: Sequence[Called]) -> None:
    signature.total += 1
    outputs = sorted({call.result for call in calls if not call.failed})
    if not outputs:
        return
    output = "\n".join(outputs)
    if signature.output is not None and signature.output != output:
        signature.progressed = True
    percents = [percent for text in outputs if (percent := _percent(text)) is not None]
    if percents and (signature.percent is None or max(percents) > signature.percent):
        signature.percent = max(percents)
        signature.total = 0
    signature.output = output


def _percent(text: str) -> int | None:
    if match := re.search(r"\b(\d+(?:\.\d+)?)\s*%", text):
        value = float(match[1])
        return int(value) if value <= 100 else None
    if match := re.search(
        r'"(?:progress|percent|percentage|percentComplete)"\s*:\s*([\d.]+)', text
    ):
        value = float(match[1]) * (100 if float(match[1]) <= 1 else 1)
        return int(value) if value <= 100 else None
    if (match := re.search(r"\b(\d+)\s*/\s*(\d+)\b", text)) and 0 < int(match[2]) >= int(match[1]):
        return 100 * int(match[1]) // int(match[2])
    return None


# OpenHands ----------------------------------------------------------------------------------------

WINDOW: Final = 20
SAME_PAIRS: Final = 4
SAME_ERRORS: Final = 3
MONOLOGUE: Final = 3
ALTERNATING: Final = 6
Event = tuple[Any, ...]


def openhands(steps: Sequence[Step]) -> bool:
    """Apply the rule of OpenHands/software-agent-sdk@611629e6, sdk/conversation/stuck_detector.py.

    In the last 20 events since the last user message: 4 equal (action, observation); more than 3 times the same
    action with an error; 3 agent messages in a row; 6 actions and observations that alternate. A thought is part of an action.
    """
    return _stuck(steps, SAME_ERRORS + 1)


def openhands_notice(steps: Sequence[Step]) -> bool:
    """Apply `openhands` with the nudge at exactly 3 equal errors counted too."""
    return _stuck(steps, SAME_ERRORS)


def _stuck(steps: Sequence[Step], errors: int) -> bool:
    events: list[Event] = []
    for step in steps:
        events.extend(_events(step))
        window = events[-WINDOW:]
        for index in range(len(window) - 1, -1, -1):
            if window[index][0] == "user":
                window = window[index + 1 :]
                break
        if _is_stuck(window, errors):
            return True
    return False


def _events(step: Step) -> Iterator[Event]:
    if step.user:
        yield ("user", step.text)
    elif not step.calls:
        yield ("message", step.text)
    for index, call in enumerate(step.calls):
        thought = step.text if index == 0 else ""
        yield ("action", call.name, _sorted_json(call.arguments), thought)
    for call in step.calls:
        yield ("error" if call.failed else "observation", call.name, call.result)


def _is_stuck(events: Sequence[Event], errors: int) -> bool:
    actions = [event for event in reversed(events) if event[0] == "action"]
    seen = [event for event in reversed(events) if event[0] in ("observation", "error")]
    if min(len(actions), len(seen)) >= SAME_PAIRS and (
        len(set(actions[:SAME_PAIRS])) == len(set(seen[:SAME_PAIRS])) == 1
    ):
        return True
    pairs = list(zip(actions, seen, strict=False))[:errors]
    failures = [action for action, result in pairs if result[0] == "error"]
    if len(failures) == errors and len(set(failures)) == 1:
        return True
    if len(events) >= MONOLOGUE and all(event[0] == "message" for event in events[-MONOLOGUE:]):
        return True
    return min(len(actions), len(seen)) >= ALTERNATING and all(
        actions[i] == actions[i + 2] and seen[i] == seen[i + 2] for i in range(ALTERNATING - 2)
    )


# hermes-agent -------------------------------------------------------------------------------------

# Names of hermes' tools and, behind the colon, of tools of other harnesses that do the same.
ALIASES: Final = {
    alias.lower(): line.split(":")[0]
    for line in """read_file: read view cat get_file_contents
search_files: grep glob search ripgrep find_files
web_search: search_web websearch
web_extract: fetch web_fetch webfetch
terminal: bash shell exec exec_command run_shell_command run_command execute_command local_shell
execute_code: python ipython run_python
write_file: write create_file write_to_file
patch: edit replace apply_patch edit_file str_replace replace_in_file multi_edit
process_manage: write_stdin
browser_snapshot: snapshot
todo_list: todowrite todo_write update_plan""".split("\n")
    for alias in line.replace(":", "").split()
}
IDEMPOTENT: Final = frozenset(
    "read_file search_files web_search web_extract session_search skill_view skills_list browser_snapshot "
    "browser_console browser_get_images".split()
)
TOLERANT: Final = frozenset(
    "terminal execute_code process_manage browser_navigate web_extract".split()
)
PROGRESS: Final = frozenset(
    "write_file patch terminal execute_code browser_click browser_type browser_press browser_navigate "
    "process_manage delegate_task send_message cronjob_manage todo_list memory skill_manage".split()
)
WEB_SEARCHES: Final = 50


@dataclass(frozen=True)
class _Limits:
    """Counts at which hermes acts."""

    exact_failure: int
    tool_failure: int
    no_progress: int
    streak: int
    laps: int


HERMES_WARN: Final = _Limits(exact_failure=2, tool_failure=3, no_progress=2, streak=3, laps=3)
HERMES_HALT: Final = _Limits(exact_failure=5, tool_failure=8, no_progress=5, streak=5, laps=5)


def hermes_notice(steps: Sequence[Step]) -> bool:
    """Apply the warnings of `hermes`, which go to the model behind a tool result."""
    return _Hermes(HERMES_WARN, halts=False).fires(steps)


def hermes(steps: Sequence[Step]) -> bool:
    """Apply the hard stops of NousResearch/hermes-agent@06c25ac9, agent/tool_guardrails.py.

    Sorted arguments and hashed results: 5 equal failures of a call with no successful mutation between them; 8 failures of a tool,
    whatever the arguments (not of shells); 5 equal results of a read-only tool; 5 equal calls and results in a row; a
    cycle of 2 to 4 equal calls and results, 5 laps. Pollers are exempt. Forgets at a user message. Tools of other harnesses
    are taken for the hermes tools that do the same.
    """
    return _Hermes(HERMES_HALT, halts=True).fires(steps)


class _Hermes:
    def __init__(self, limits: _Limits, *, halts: bool) -> None:
        self._limits = limits
        self._halts = halts
        self._reset()

    def fires(self, steps: Sequence[Step]) -> bool:
        for step in steps:
            if step.user:
                self._reset()
            for call in step.calls:
                name = ALIASES.get(call.name.lower(), call.name)
                key = f"{name}:{_sorted_json(call.arguments)}"
                if (
                    self._searched(name)
                    or self._counted(name, key, call)
                    or self._cycled(name, key, call)
                ):
                    return True
        return False

    def _reset(self) -> None:
        self._exact: Counter[str] = Counter()
        self._tool: Counter[str] = Counter()
        self._progressed: set[str] = set()
        self._results: dict[str, tuple[str, int]] = {}
        self._history: deque[tuple[str, str, bool]] = deque(maxlen=64)
        self._searches = 0

    def _searched(self, name: str) -> bool:
        self._searches += name == "web_search"
        return self._searches > WEB_SEARCHES

    def _counted(self, name: str, key: str, call: Called) -> bool:
        if call.failed:
            if key in self._progressed:
                self._progressed.discard(key)
                del self._exact[key]
            self._exact[key] += 1
            self._tool[name] += 1
            self._results.pop(key, None)
            tolerated = self._halts and name in TOLERANT
            return self._exact[key] >= self._limits.exact_failure or (
                not tolerated and self._tool[name] >= self._limits.tool_failure
            )
        del self._exact[key]
        del self._tool[name]
        if name in PROGRESS:
            self._progressed.update(self._exact)
            self._tool.clear()
        if name not in IDEMPOTENT:
            return False
        result, count = self._results.get(key, (call.result, 0))
        count = count + 1 if result == call.result else 1
        self._results[key] = (call.result, count)
        return count >= self._limits.no_progress

    def _cycled(self, name: str, key: str, call: Called) -> bool:
        repeatable = name == "process_manage" or name.endswith(("_poll", "_get_result"))
        self._history.append((key, _result(name, call.result), repeatable))
        history = list(self._history)
        for period in range(1, 5):
            lap = history[-period:]
            laps = self._limits.streak if period == 1 else self._limits.laps
            if all(entry[2] for entry in lap) or len(history) < period * laps:
                continue
            if history[-period * laps :] == lap * laps:
                return True
        return False


def _result(name: str, result: str) -> str:
    """Return a result without what hermes drops of its own execute_code tool."""
    if name != "execute_code":
        return result
    without = re.sub(r'"duration_seconds": ?[\d.]+', "", result)
    return re.sub(r'"execution_count": ?\d+', "", without)


# oh-my-pi -----------------------------------------------------------------------------------------

TURNS: Final = 5
INTENT: Final = frozenset({"i", "_i", "__intent"})
EXEMPT: Final = frozenset({"hub"})


def oh_my_pi(steps: Sequence[Step]) -> bool:
    """Apply the rule of can1357/oh-my-pi@14047da5, packages/ai/src/utils/tool-call-loop-guard.ts.

    5 turns in a row with the same set of calls (sorted keys, the field that states the intent dropped), results not looked
    at. A turn without calls resets; a user message does not. A turn that only calls `hub` is not counted.
    """
    last, run = "", 0
    for step in steps:
        if step.user or (step.calls and all(call.name in EXEMPT for call in step.calls)):
            continue
        calls = sorted(
            _sorted_json([call.name, _intentless(call.arguments)]) for call in step.calls
        )
        turn = "\n".join(calls)
        run = run + 1 if turn and turn == last else int(bool(turn))
        last = turn
        if run >= TURNS:
            return True
    return False


def _intentless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _intentless(item) for key, item in value.items() if key not in INTENT}
    if isinstance(value, list):
        return [_intentless(item) for item in value]
    return value


HARNESSES: Final[dict[str, Rule]] = {
    "gemini-cli": gemini_cli,
    "opencode": opencode,
    "opencode, across messages": opencode_across,
    "cline, notice": cline_notice,
    "cline, stop": cline,
    "OpenHands, notice": openhands_notice,
    "OpenHands, stop": openhands,
    "hermes-agent, notice": hermes_notice,
    "hermes-agent, stop": hermes,
    "oh-my-pi": oh_my_pi,
}
