"""Serve the cross-encoder: the container's code, a local server, a client, a deployment."""
