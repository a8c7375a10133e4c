"""Vercel's AI SDK: ai_sdk.test.mjs in node's test runner, against the same proxy."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.external.clients import upstream as script
from tests.external.clients.conftest import LONG, PROMPT, SHORT, Target

HERE = Path(__file__).parent


def test_the_ai_sdk_suite_passes(target: Target) -> None:
    assert shutil.which("node"), "needs node 20 or later"
    assert (HERE / "node_modules" / "ai").is_dir(), f"npm install --ignore-scripts in {HERE}"
    names = (
        "NOVEL",
        "OPENING",
        "CIRCLE",
        "THOUGHTS",
        "TOOL",
        "ARGUMENTS",
        "VECTOR",
        "RETRY_AFTER",
        "USAGE",
    )
    told = {
        "url": target.url,
        "upstreamUrl": target.upstream_url,
        "novel": target.novel,
        "loop": target.loop,
        "scripted": target.scripted,
        "givesStreamUsage": target.gives_stream_usage,
        "prompt": PROMPT,
        "short": SHORT,
        "long": LONG,
        "script": {name: getattr(script, name) for name in names},
    }
    command = ["node", "--test", "--test-reporter=tap", "ai_sdk.test.mjs"]
    env = {**os.environ, "CLIENTS_TARGET": json.dumps(told)}
    run = subprocess.run(
        command, cwd=HERE, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    counts = dict(re.findall(r"^# (pass|fail|skipped) (\d+)$", run.stdout, re.MULTILINE))
    print("AI SDK:", counts)
    assert int(counts["pass"]) > 0
    assert counts["fail"] == "0"
    assert not target.scripted or counts["skipped"] == "0"
