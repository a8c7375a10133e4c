"""Text in, text out: words, segments, repeated sentences, loops, metrics. Pure and sans-IO: no clock, no socket, no environment."""
