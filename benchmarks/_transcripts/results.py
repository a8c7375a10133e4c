"""Results of common tools, in the form that the tools give them."""

import json
from collections.abc import Sequence
from typing import Any


def numbered(code: str, first: int = 1) -> str:
    """Return a file as a coding agent's read tool shows it, with line numbers."""
    lines = code.strip("\n").split("\n")
    return "\n".join(f"{number:6d}→{line}" for number, line in enumerate(lines, first))


def shell(output: str, code: int = 0, seconds: float = 0.1) -> str:
    """Return the JSON envelope that Codex's older shell tool puts around an output."""
    metadata = {"exit_code": code, "duration_seconds": round(seconds, 1)}
    return json.dumps({"output": output, "metadata": metadata}, ensure_ascii=False)


def executed(output: str, code: int = 0, seconds: float = 0.05, chunk: str = "a1b2c3") -> str:
    """Return the output of Codex's exec_command for a process that has ended."""
    tokens = len(output) // 4
    return (
        f"Chunk ID: {chunk}\nWall time: {seconds:.4f} seconds\nProcess exited with code {code}\n"
        f"Original token count: {tokens}\nOutput:\n{output}"
    )


def running(output: str, session: int, seconds: float, chunk: str) -> str:
    """Return the output of Codex's exec_command or write_stdin for a process that runs."""
    return (
        f"Chunk ID: {chunk}\nWall time: {seconds:.4f} seconds\n"
        f"Process running with session ID {session}\nOriginal token count: {len(output) // 4}\n"
        f"Output:\n{output}"
    )


def dumped(value: Any, indent: int | None = None) -> str:
    """Return JSON as an API answers it."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def listing(entries: Sequence[tuple[str, int, str]], owner: str = "dev") -> str:
    """Return `ls -la` of (name, size, date); a name that ends in `/` is a directory."""
    lines = [f"total {sum(size for _, size, _ in entries) // 512}"]
    for name, size, date in entries:
        mode = "-rw-r--r--"
        if name.endswith("/"):
            mode = "drwxr-xr-x"
        lines.append(f"{mode} 1 {owner} {owner} {size:8d} {date} {name.rstrip('/')}")
    return "\n".join(lines)


def clock(start: str, seconds: float) -> str:
    """Return the time of day, `HH:MM:SS`, that lies this many seconds after `start`."""
    hours, minutes, rest = (int(part) for part in start.split(":"))
    total = hours * 3600 + minutes * 60 + rest + int(seconds)
    return f"{total // 3600 % 24:02d}:{total // 60 % 60:02d}:{total % 60:02d}"
