"""What does cutting save? Loops that models really wrote are written again, and the proxy hangs up on them.

    python benchmarks/proxy_savings.py --data DIRECTORY                   # its loops/*.jsonl (by `lang`) and drift/*.jsonl
    python benchmarks/proxy_savings.py one.jsonl two.jsonl                # JSON lines with "id" and "text"

The upstream sends each transcript, one token-like piece a chunk, at the pace of a fast model, straight to a client and then through
`dedup serve` with its defaults. A piece that it has sent before the proxy hung up was generated. The onset is the one in the proxy's last
chunk (`repetition.loop.onset`); the share never generated of a loop is 1 - (pieces sent after the onset) / (pieces after the onset).
Every answer must come as one well-formed stream, and say nothing that the transcript does not. Reads /proc: Linux.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import uvloop
from _proxy_rig import (
    Answer,
    Client,
    dedup_command,
    free_port,
    get,
    pieces_of,
    request_bytes,
    running,
    split_cores,
    upstream,
)
from tqdm import tqdm

_LONG = 100
LANGUAGES = {"en": "loops, English", "zh": "loops, Chinese"}


@dataclass
class Transcript:
    group: str
    name: str
    text: str


@dataclass
class Outcome:
    """pieces: of the transcript. sent: of them. after, sent_after: from the onset on; None where nothing was cut."""

    pieces: int
    sent: int
    after: int | None = None
    sent_after: int = 0

    @property
    def saved(self) -> float:
        return 1 - self.sent_after / self.after if self.after else 0.0


def read(paths: list[Path], data: Path | None) -> list[Transcript]:
    found: list[tuple[Path, str | None]] = [(path, None) for path in paths]
    if data:
        found += [(path, "lang") for path in sorted(data.glob("loops/*.jsonl"))]
        found += [(path, None) for path in sorted(data.glob("drift/*.jsonl"))]
    transcripts = []
    for path, by in found:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            group = (
                LANGUAGES.get(row.get(by, ""), "loops, other languages")
                if by
                else path.stem.replace("_", " ")
            )
            transcripts.append(Transcript(group, str(row["id"]), row["text"]))
    return transcripts


async def replay(
    port: int, transcripts: list[Transcript], streams: int, delay_ms: float
) -> list[Answer]:
    """The answers, in the transcripts' order; the longest are asked for first, so that the last do not run alone."""
    turns = iter(sorted(range(len(transcripts)), key=lambda line: -len(transcripts[line].text)))
    answers: list[Answer] = [Answer()] * len(transcripts)
    with tqdm(total=len(transcripts), unit=" answers", file=sys.stderr) as bar:

        async def use_slot() -> None:
            for line in turns:
                _, client = await asyncio.get_running_loop().create_connection(
                    Client, "127.0.0.1", port
                )
                try:
                    answers[line] = await client.ask(
                        request_bytes(port, f"replay={line} every={delay_ms}")
                    )
                    await asyncio.sleep(0.02)
                    if client.stray:
                        answers[line].problem = "bytes came after the end"
                except OSError as error:
                    answers[line] = Answer(problem=str(error))
                client.transport.close()
                bar.update()

        await asyncio.gather(*(use_slot() for _ in range(streams)))
    return answers


def stats(upstream_port: int) -> dict[str, Any]:
    """The upstream's numbers, once it has noticed that all have hung up."""
    for _ in range(100):
        found: dict[str, Any] = get(upstream_port, "/stats")
        if not found["active"]:
            return found
        time.sleep(0.05)
    sys.exit("FAILED: answers have ended, and the proxy has not hung up on the upstream")


def outcome(text: str, answer: Answer, sent: int) -> Outcome:
    starts = [0, *accumulate(map(len, pieces_of(text)))][:-1]
    loop = (answer.choices[0].get("repetition") or {}).get("loop") if answer.choices else None
    if not loop:
        return Outcome(len(starts), sent)
    before = sum(start < loop["onset"] for start in starts)
    return Outcome(len(starts), sent, len(starts) - before, max(0, sent - before))


def problem(transcript: Transcript, answer: Answer, through_proxy: bool) -> str:
    """What is wrong with an answer, or nothing."""
    if answer.problem:
        return answer.problem
    if not through_proxy:
        return "" if answer.text == transcript.text else "not the transcript"
    rest = iter(transcript.text)
    return (
        ""
        if all(character in rest for character in answer.text)
        else "says what the transcript does not"
    )


def tell(group: str, outcomes: list[Outcome]) -> None:
    cut = [each for each in outcomes if each.after is not None]
    sent, pieces = sum(each.sent for each in outcomes), sum(each.pieces for each in outcomes)
    cells = f"{len(cut)} of {len(outcomes)}"
    if cut:
        after, saved = sorted(each.sent_after for each in cut), sorted(each.saved for each in cut)
        tenth = len(cut) // 10
        cells += f" | {statistics.median(after):.0f} | {after[-1 - tenth]}"
        cells += f" | {statistics.median(saved):.1%} | {saved[-1 - tenth]:.1%} | {saved[tenth]:.1%}"
    else:
        cells += " | - | - | - | - | -"
    print(f"| {group} | {cells} | {pieces:,} | {sent:,} | {1 - sent / pieces:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files", nargs="*", type=Path, help='JSON lines with "id" and "text", a data set each'
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIRECTORY", help="with loops/*.jsonl and drift/*.jsonl"
    )
    parser.add_argument(
        "--delay-ms", type=float, default=1.0, help="between two pieces (default: 1)"
    )
    parser.add_argument(
        "--streams",
        type=int,
        default=4,
        help="at once, through the proxy; few, or it cannot keep up (default: 4)",
    )
    parser.add_argument(
        "--direct-streams",
        type=int,
        default=16,
        help="at once, without the proxy; 0 leaves that out (default: 16)",
    )
    parser.add_argument("--num", type=int, help="only every data set's first NUM transcripts")
    args = parser.parse_args()
    if not args.files and not args.data:
        parser.error("give files, or --data")
    transcripts, seen = [], dict[str, int]()
    for transcript in read(args.files, args.data):
        seen[transcript.group] = seen.get(transcript.group, 0) + 1
        if transcript.text and (args.num is None or seen[transcript.group] <= args.num):
            transcripts.append(transcript)
    if not transcripts:
        sys.exit("FAILED: there are no transcripts")
    proxy_cores, cores = split_cores()
    os.sched_setaffinity(0, cores)
    failures: list[str] = []
    lags: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "transcripts.jsonl"
        path.write_text(
            "".join(json.dumps({"text": each.text}) + "\n" for each in transcripts),
            encoding="utf-8",
        )
        try:
            with upstream(cores, path) as upstream_port:

                def run(where: str, port: int, streams: int) -> tuple[list[Answer], dict[str, int]]:
                    answers = uvloop.run(replay(port, transcripts, streams, args.delay_ms))
                    for transcript, answer in zip(transcripts, answers, strict=True):
                        if wrong := problem(transcript, answer, port != upstream_port):
                            failures.append(
                                f"{where}, {transcript.group}, {transcript.name}: {wrong}"
                            )
                    found = stats(upstream_port)
                    lags.append(f"{found['lag_p99_ms']} ms {where}")
                    return answers, found["sent"]

                direct = (
                    run("direct", upstream_port, args.direct_streams)[1]
                    if args.direct_streams
                    else None
                )
                proxy_port = free_port()
                with running(
                    dedup_command(proxy_port, upstream_port),
                    proxy_port,
                    "/health/ready",
                    proxy_cores,
                ):
                    answers, sent = run("through the proxy", proxy_port, args.streams)
        except RuntimeError as error:
            sys.exit(f"FAILED: {error}")
    outcomes: dict[str, list[Outcome]] = {}
    for line, (transcript, answer) in enumerate(zip(transcripts, answers, strict=True)):
        outcomes.setdefault(transcript.group, []).append(
            outcome(transcript.text, answer, sent.get(str(line), 0))
        )
    print(
        "| transcripts | cut | pieces sent after the onset: median | p90 | share of the loop never generated: median | p90 ",
        end="",
    )
    print("| nine in ten: at least | pieces in all | sent through the proxy | saved of all |")
    print("| --- |" + " --- |" * 9)
    for group, found in outcomes.items():
        tell(group, found)
    every = [each for found in outcomes.values() for each in found]
    tell("all", every)
    # Many a transcript was broken off by its makers soon after its loop began: what a server would have gone on to generate is not in it.
    tell(
        f"of these, {_LONG} pieces or more after the onset",
        [each for each in every if (each.after or 0) >= _LONG],
    )
    if direct is not None:
        print(
            f"\nWithout the proxy the upstream sent {sum(direct.values()):,} pieces: all of them.",
            end="",
        )
    print(
        f"\nPieces were sent at most so late (p99): {', '.join(lags)}; {len(failures)} answers were not well-formed."
    )
    if failures:
        sys.exit("".join(f"FAILED: {failure}\n" for failure in failures[:20]).rstrip())


if __name__ == "__main__":
    main()
