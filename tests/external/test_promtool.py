"""A scrape after traffic is clean under `promtool check metrics`, and its counters are what the client counted."""

import re
import shutil
import subprocess
import urllib.request

import pytest
from openai import NotFoundError, OpenAI

from tests.demo_server import serving

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")


def test_promtool_is_content_and_the_counters_are_true() -> None:
    with serving() as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        asked = answered_chars = cut = 0
        for prompt in ("She had not slept since the night when her brother disappeared.", "夜深了，屋里只点着一盏灯。"):
            for policy in ("off", "balanced"):
                done = client.chat.completions.create(
                    model="demo",
                    messages=[{"role": "user", "content": prompt}],
                    temperature=0,
                    max_tokens=200,
                    extra_body={"repetition": {"policy": policy}},
                )
                asked += 1
                answered_chars += len(done.choices[0].message.content or "")
                cut += (done.choices[0].model_extra or {}).get("stop_reason") == "repetition_detected"
        with pytest.raises(NotFoundError):
            client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "Hello"}])
        with urllib.request.urlopen(f"{url}/metrics") as response:
            scrape = response.read()
    check = subprocess.run(["promtool", "check", "metrics"], input=scrape, capture_output=True, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")

    def total(name: str, label: str = "") -> float:
        lines = re.findall(rf"^{name}{{(.*)}} (\S+)$", scrape.decode(), re.MULTILINE)
        return sum(float(value) for labels, value in lines if label in labels)

    assert total("dedup_requests_total", 'outcome="ok"') + total("dedup_requests_total", 'outcome="cut"') == asked
    assert total("dedup_requests_total", 'outcome="cut"') == cut > 0
    assert total("dedup_loops_total", 'action="cut"') == cut
    assert total("dedup_requests_total", 'outcome="rejected"') == 1
    assert total("dedup_output_chars_total") == answered_chars
    assert total("dedup_streams_in_progress") == 0
