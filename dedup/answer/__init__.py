"""A model's answer, whatever the API: choices, each with texts in channels, filtered as they come.

    frames -> Answer.feed -> Decision

A codec reads an API's bytes into frames and writes what the decision leaves of them; an engine in this
process makes frames itself. Nothing here knows HTTP, JSON events or a clock.
"""
