"""From the bytes of records to arrays."""
