"""A study: its folder, the search, the confirmation, Optuna and the database."""
