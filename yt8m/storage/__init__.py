"""Datasets in buckets and on web servers: transport, a bounded cache of whole shards, and shards that arrive."""
