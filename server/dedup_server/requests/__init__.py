"""Requests, validated: one module an API.

A request keeps every field that it came with: an upstream gets them all, and an engine in this process
refuses those that it cannot obey. Of what goes to an upstream, which knows best what it takes, only
what this server needs is checked.
"""
