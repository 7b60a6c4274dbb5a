"""Is NEW better or worse than BASE? Two studies, commits or configurations, measured before or measured now.

``sides`` finds out what BASE and NEW name and what is to be run there, ``recorded`` makes pairs of the records of
studies, ``measured`` makes them by measuring both sides in turns, ``verdict`` says what the pairs show.
"""
