"""Text processing without I/O: words, segments, repeated sentences, loops, metrics. Nothing in here
reads a clock, a socket or an environment variable.
"""
