"""Real models behind the filter: loops, live stops, tokens saved, healed answers, harm to clean answers.

    make live                                              # all servers: about two hours on two cores
    make live LIVE_ARGS="--servers smollm2-llamacpp --limit 60"
    make live LIVE_ARGS="--docs docs/evidence/live.md"     # also writes the tables into the page

SmolLM2-135M-Instruct gets prompts as chat; Gemma 3 270M, a base model, continues "Question: ... Answer:".
Each prompt is answered in four modes: `off` (policy off), `cut` (heal false), `whole` (the same, not
streamed) and `healed` (the defaults), by `dedup serve`, in front of the server or with the model in it.
Answers are lines of JSON in `--out`, a file for each server, language, temperature and mode; they are
flushed as they are completed, and a second run generates only what is missing. `*_off.jsonl` are texts that
nothing has stopped. The tables are of the answers that the options select.

Tokens are those that the engine generated, wanted or not: llama.cpp's own counter around each answer (one
answer at a time in each process, so that the same seed gives the same text in every mode); of the other
servers the usage, marked ~ where `dedup serve` estimated it.

Default sizes: 20 prompts of a language, 600 tokens, temperatures 0, 0.4 and 0.8 make 120 prompts a server, some
1,500 tokens each in the four modes: 25 minutes for SmolLM2 in llama.cpp, 35 for Gemma, 35 for SmolLM2 in
`dedup serve`, 25 in vLLM. Time grows with `--limit`.
"""

import argparse
import json
import os
import queue
import re
import shlex
import signal
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _live_servers import CHAT_MODELS, ROOT, SERVERS, Lane, lanes_of, version_of
from _live_table import cases_of, changed_clean, tables
from tqdm import tqdm

MODES: dict[str, Any] = {
    "off": {"stream": True, "repetition": {"policy": "off"}},
    "cut": {"stream": True, "repetition": {"heal": False}},
    "whole": {"repetition": {"heal": False}},
    "healed": {"stream": True},
}
QUESTION = {"en": "Question: {}\nAnswer:", "zh": "问题：{}\n回答："}  # for a base model
STOPS = ["\nQuestion:", "\n问题："]  # it asks itself the next question

COUNTS = "counts.jsonl"  # of each run: the tokens that an engine counted, and those of its answers

Row = dict[str, Any]
Key = tuple[str, str, int]  # file, id, limit of tokens


def seed_of(prompt: Row) -> int:
    return zlib.crc32(prompt["id"].encode())


@dataclass(frozen=True)
class Job:
    """An answer to be generated."""

    server: str
    prompt: Row
    temperature: float
    mode: str
    max_tokens: int

    @property
    def file(self) -> str:
        return f"{self.server}_{self.prompt['language']}_t{self.temperature:g}_{self.mode}.jsonl"

    @property
    def key(self) -> Key:
        return self.file, self.prompt["id"], self.max_tokens

    def request(self, model: str) -> tuple[str, Row]:
        """Return the path and body of the request."""
        server = SERVERS[self.server]
        body: Row = {"model": model, "max_tokens": self.max_tokens, **MODES[self.mode]}
        body |= {"temperature": self.temperature, "seed": seed_of(self.prompt)}
        if "stream" in body:
            body["stream_options"] = {"include_usage": True}
            if server.engine == "vllm-cpu":
                body["stream_options"]["continuous_usage_stats"] = True  # of cut answers, too
        text = self.prompt["prompt"]
        if server.model in CHAT_MODELS:
            return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": text}]}
        body["prompt"] = QUESTION[self.prompt["language"]].format(text)
        return "/v1/completions", body | {"stop": STOPS}


def chunks_of(address: str, path: str, body: Row) -> Iterator[Row]:
    """Yield the chunks of a streamed answer, or the one object of a whole answer."""
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=1800) as response:
        if not body.get("stream"):
            yield json.load(response)
            return
        for line in response:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
            elif line.startswith(b"data: [DONE]"):
                return


def answer_of(job: Job, lane: Lane, versions: Row) -> Row:
    """Return the complete answer, as a line of the output."""
    server = SERVERS[job.server]
    counts = server.parallel == 1
    before = lane.generated(server) if counts else 0
    path, body = job.request(lane.model)
    started = time.monotonic()
    text = ""
    last: Row = {}
    usage: Row = {}
    for chunk in chunks_of(lane.address, path, body):
        if "error" in chunk:
            raise RuntimeError(chunk["error"])
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            message = choice.get("delta") or choice.get("message") or choice
            text += message.get("content") or message.get("text") or ""
            last = choice if choice.get("finish_reason") else last
    seconds = time.monotonic() - started
    return {
        "id": job.prompt["id"],
        "language": job.prompt["language"],
        "prompt": body.get("prompt", job.prompt["prompt"]),
        "text": text,
        "finish": last.get("finish_reason"),
        "stop_reason": last.get("stop_reason"),
        "repetition": last.get("repetition"),
        "usage": usage,
        "generated": lane.generated(server) - before if counts else usage["completion_tokens"],
        "is_estimated": not counts and bool(usage.get("estimated")),
        "seconds": round(seconds, 2),
        "server": job.server,
        "model": server.model,
        "temperature": job.temperature,
        "mode": job.mode,
        "max_tokens": job.max_tokens,
        "versions": versions,
    }


def answers_in(path: Path) -> dict[Key, Row]:
    """Return a file's answers by key; an incomplete last line is removed."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    complete = data.rfind(b"\n") + 1
    if complete < len(data):
        os.truncate(path, complete)
    rows = map(json.loads, data[:complete].splitlines())
    return {(path.name, row["id"], row["max_tokens"]): row for row in rows}


def generate(jobs: list[Job], lanes: list[Lane], versions: Row, out: Path) -> Iterator[Row | None]:
    """Yield answers in the order of completion, appended to their files first; None for a failure."""
    free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
    for lane in lanes:
        free.put(lane)
    lock = threading.Lock()

    def write(job: Job) -> Row:
        lane = free.get()
        try:
            answer = answer_of(job, lane, versions)
        finally:
            free.put(lane)
        with lock, (out / job.file).open("a", encoding="utf-8") as file:
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")
        return answer

    pool = ThreadPoolExecutor(len(lanes))
    futures = {pool.submit(write, job): job for job in jobs}
    try:
        for future in as_completed(futures):
            try:
                yield future.result()
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                tqdm.write(f"FAILED: {futures[future]}: {error!r}", file=sys.stderr)
                yield None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# ---- the whole of it


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """Return the jobs that the options select; the order of prompts is random, the same in each run."""
    rows = [json.loads(line) for line in args.prompts.read_text(encoding="utf-8").splitlines()]
    jobs = []
    for language in ("en", "zh"):
        prompts = [row for row in rows if row["language"] == language]
        for prompt in sorted(prompts, key=seed_of)[: args.limit]:
            jobs += [
                Job(server, prompt, temperature, mode, args.max_tokens)
                for temperature in args.temperatures
                for mode in args.modes
                for server in args.servers
            ]
    return jobs


def report(rows: list[Row], counts: list[Row], arguments: list[str]) -> str:
    """Return the tables with what they were made by."""
    cases = cases_of(rows)
    versions = sorted({each for row in rows for each in row["versions"]["packages"]})
    dates = sorted({row["versions"]["date"] for row in rows})
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    command = "make live" + (
        f" LIVE_ARGS={shlex.quote(shlex.join(arguments))}" if arguments else ""
    )
    head = (
        f"`{command}`, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}: {len(cases)} prompts in "
        f"{len(rows)} answers. {', '.join(versions)}; {len(os.sched_getaffinity(0))} cores"
        f"{f' of {cpu[1]}' if cpu else ''}.\n"
    )
    for server in sorted({row["server"] for row in rows} & {row["server"] for row in counts}):
        own, told = (
            sum(row[each] for row in counts if row["server"] == server) for each in ("own", "rows")
        )
        head += f"{server} counted {own:,} tokens itself; its answers report {told:,}.\n"
    changed = changed_clean(cases) or "None."
    return f"{head}\n{tables(cases)}\nClean answers that were changed:\n\n{changed}\n"


def write_into(page: Path, section: str) -> None:
    """Replace what stands between `<!-- live -->` and `<!-- end -->` in a page."""
    text = page.read_text(encoding="utf-8")
    mark, end = "<!-- live -->\n", "<!-- end -->"
    head, _, rest = text.partition(mark)
    page.write_text(f"{head}{mark}{section}{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.0, 0.4, 0.8])
    parser.add_argument("--limit", type=int, default=20, help="prompts a language (default 20)")
    parser.add_argument("--max-tokens", type=int, default=600, help="of an answer (default 600)")
    parser.add_argument(
        "--prompts",
        type=Path,
        default=ROOT / "benchmarks" / "live_prompts.jsonl",
        help='lines of {"id", "language", "prompt"}',
    )
    parser.add_argument(
        "--out", type=Path, default=Path("live"), help="folder for the answers (default live)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / ".weights",
        help="folder for the weights (default .weights)",
    )
    parser.add_argument("--docs", type=Path, help="write the tables into a page, between its marks")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    jobs = jobs_of(args)
    done = {key: row for job in jobs for key, row in answers_in(args.out / job.file).items()}
    missing = [job for job in jobs if job.key not in done]
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit=" answers") as bar:
        for name in args.servers:
            if of_server := [job for job in missing if job.server == name]:
                run_server(name, of_server, args, bar)
    rows = [row for job in jobs if (row := answers_in(args.out / job.file).get(job.key))]
    if set(args.modes) != set(MODES):
        return
    counted = args.out / COUNTS
    lines = counted.read_text(encoding="utf-8").splitlines() if counted.exists() else []
    arguments = [each for each in sys.argv[1:] if each not in ("--docs", str(args.docs))]
    text = report(rows, [json.loads(line) for line in lines], arguments)
    print(text)
    (args.out / "report.md").write_text(text, encoding="utf-8")
    if args.docs:
        write_into(args.docs, text)
    if len(rows) < len(jobs):
        sys.exit(f"{len(jobs) - len(rows)} answers failed: run it again")


def run_server(name: str, jobs: list[Job], args: argparse.Namespace, bar: "tqdm[Any]") -> None:
    """Generate the answers of a server."""
    packages = [version_of(sys.executable, "dedup-llm")]
    packages += [version_of(SERVERS[name].python, each) for each in SERVERS[name].packages]
    versions = {"packages": packages, "date": time.strftime("%Y-%m-%d")}
    bar.set_description(f"{name} starts")
    with lanes_of(name, args.cache, args.out, args.max_tokens) as lanes:
        bar.set_description(name)
        started, tokens = time.monotonic(), 0
        for answer in generate(jobs, lanes, versions, args.out):
            bar.update()
            tokens += answer["generated"] if answer else 0
            bar.set_postfix_str(f"{tokens / (time.monotonic() - started):.0f} tokens/s")
        if SERVERS[name].tokens:
            counted = sum(lane.generated(SERVERS[name]) for lane in set(lanes))
            with (args.out / COUNTS).open("a") as file:
                file.write(json.dumps({"server": name, "own": counted, "rows": tokens}) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers end with it
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)  # do not wait for the answers in progress
