"""`ingot registry`: one file a verb."""
