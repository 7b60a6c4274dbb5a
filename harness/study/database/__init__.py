"""A study in a database, for several drivers: ``run --storage URL``. Without it nothing here is even imported.

``database`` opens it, ``leases`` says which driver works on what, ``records`` keeps what was measured, and
``shared_study`` puts them together as a study that ``harness.study.search`` runs like any other.
"""
