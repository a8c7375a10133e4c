"""The place where a text begins to loop."""

from dedup.config import FilterConfig
from dedup.text.filter import RepetitionFilter

_LOOPS = FilterConfig(policy="loops")


def second_copy(text: str, prompt: str) -> int | None:
    """Return the offset where a loop's second copy begins; None if the text does not loop.

    Args:
        prompt: Repetition that it asks for is no loop.
    """
    text_filter = RepetitionFilter(_LOOPS, prompt=prompt)
    text_filter.feed(text)
    text_filter.flush()
    loop = text_filter.loop
    return min(loop.onset + loop.period, loop.detected_at) if loop else None
