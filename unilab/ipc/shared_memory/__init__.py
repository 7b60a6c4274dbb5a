"""Segments, and what lies in them: latest values, mailboxes and wake-ups."""
