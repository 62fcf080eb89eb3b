"""Decode pictures and find faces, in processes that can be killed.

A picture comes from a stranger, and decoders are large C libraries. So the gateway itself never looks into one: a
`worker` does, with limits on its memory and its time, and the `pool` kills a worker that exceeds its time. Both speak
in `frames` over pipes, and what a worker says is JSON and pixels, which cannot harm the gateway.
"""
