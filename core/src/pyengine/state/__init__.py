"""What the engine remembers: records in a database, blobs by digest."""
