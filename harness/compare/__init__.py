"""Is NEW better or worse than BASE? Two studies, commits or configurations, measured before or measured now.

``sides`` finds out what BASE and NEW name, ``recorded`` makes pairs of the records of studies, ``measure`` makes them
by measuring both sides in turns, ``judge`` says what the pairs show, ``tables`` says it to people.
"""
