"""The database: SQLite or PostgreSQL through SQLAlchemy Core.

`engine.py` opens it and `schema.py` holds the tables. `store.py` has the writes of the leading coordinator,
`readers.py` its reads, `rows.py` turns tasks into rows and back. `leader_lease.py` judges who leads, `upgrade.py` runs
the migrations, `backup.py` copies SQLite files.

Imports `coordinator.core`, whose objects it stores, and nothing else of the coordinator. Begin with `schema.py`.
"""
