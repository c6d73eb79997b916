"""What the owner of shards reads and writes of their hosts; each write is guarded by the shard's epoch."""
