"""Shards, batches and their order."""
