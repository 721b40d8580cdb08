"""What is going on now: the table of sessions, figures, and the feed. Kept only while somebody watches."""
