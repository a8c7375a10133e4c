"""Steps for datatrove pipelines: signals as metadata, and a filter by thresholds.

RepetitionFilterStep({"loop_char_frac": 0.2}, exclusion_writer=JsonlWriter("excluded"))
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, get_args

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from dedup.config import FilterConfig
from dedup.corpus.chat import turns_of
from dedup.corpus.measures import stable_hash
from dedup.corpus.signals import Signal, repetition_signals
from dedup.corpus.thresholds import DEFAULT, check_thresholds, exceeded
from dedup.text.filter import RepetitionFilter

Action = Literal["drop", "edit", "keep"]
KEY: Final = "repetition"  # of the metadata
_EDITING: Final = FilterConfig(on_loop="skip")


def signals_of(doc: Document) -> dict[str, Signal]:
    """Return the signals of a document, from its metadata if they are there."""
    found: dict[str, Signal] | None = doc.metadata.get(KEY)
    if isinstance(found, dict) and "loop_kind" in found:
        return found
    return repetition_signals(doc.text)


class RepetitionSignals(PipelineStep):  # type: ignore[misc]
    """A step that writes the signals of each document to `metadata["repetition"]`."""

    name = "Repetition signals"
    type = "📊 - SIGNALS"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents, with their signals."""
        for doc in data:
            with self.track_time():
                doc.metadata[KEY] = signals_of(doc)
            yield doc


class RepetitionFilterStep(BaseFilter):  # type: ignore[misc]
    """A filter of documents that repeat themselves.

    Writes to the metadata: `repetition`, the signals; `repetition_exceeded`, the names of those
    above their thresholds; `repetition_removed_chars`, where the text was edited. Datatrove adds
    `filter_reason` to what is dropped.

    Args:
        thresholds: greatest value of each signal; by default `dedup.corpus.thresholds.DEFAULT`.
        action: `drop` a document above a threshold; `edit` it with the text filter, and drop it
            if it still is above one; `keep` it, with the names in its metadata.
        exclusion_writer: a writer of what is dropped, with its original text.
        config: options of the text filter; by default `balanced`, loops skipped.

    Raises:
        ValueError: a threshold or the action is invalid.
    """

    name = "Repetition filter"

    def __init__(
        self,
        thresholds: Mapping[str, float] | None = None,
        action: Action = "drop",
        exclusion_writer: Any = None,
        config: FilterConfig | None = None,
    ) -> None:
        super().__init__(exclusion_writer)
        self.thresholds = dict(DEFAULT if thresholds is None else thresholds)
        check_thresholds(self.thresholds)
        if action not in get_args(Action):
            raise ValueError(f"action must be one of {', '.join(get_args(Action))}, got {action!r}")
        self.action = action
        self.config = config or _EDITING

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Return whether a document is kept, or False and the first signal above its threshold."""
        found = doc.metadata[KEY] = signals_of(doc)
        names = list(exceeded(found, self.thresholds))
        if not names:
            return True
        doc.metadata["repetition_exceeded"] = names
        if self.action == "keep" or (self.action == "edit" and self._edit(doc)):
            return True
        return False, names[0]

    def _edit(self, doc: Document) -> bool:
        """Replace the text of a document with the filtered one; return whether that suffices.

        Chats are not edited: their text is in their messages.
        """
        if turns_of(doc.metadata):
            return False
        text_filter = RepetitionFilter(self.config)
        text = text_filter.feed(doc.text) + text_filter.flush()
        removed = len(doc.text) - len(text)
        if not removed or not text.strip():
            return False
        found = repetition_signals(text)
        if any(exceeded(found, self.thresholds)):
            return False
        doc.text = text
        doc.metadata[KEY] = found
        doc.metadata["repetition_removed_chars"] = removed
        self.stat_update("edited")
        return True


class Sample(PipelineStep):  # type: ignore[misc]
    """A step that passes on a share of the documents, chosen by a hash of their ids.

    The choice does not depend on the number of tasks.
    """

    name = "Sample"
    type = "🔻 - FILTER"

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"the sampled share must be above 0 and at most 1, got {share!r}")
        self.share = share

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the sampled documents."""
        for doc in data:
            if stable_hash(str(doc.id)) < self.share * 2.0**64:
                yield doc
