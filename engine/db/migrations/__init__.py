"""The schema's history; run by `engine.db.migrate`, never imported."""
