"""The report as a page: its model, its sections and how it is written."""
