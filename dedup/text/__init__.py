"""Text processing: words, segments, repeated sentences, loops, metrics.

It is sans-IO: nothing in here reads a clock, a socket or an environment variable.
"""
