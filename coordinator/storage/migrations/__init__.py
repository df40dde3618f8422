"""Alembic migrations: one file in `versions/` for each change of the schema, in order of their numbers.

Alembic loads `env.py` and the versions by path; `coordinator/storage/upgrade.py` starts it. Nothing imports this
package. A released migration never changes. Begin with the newest file in `versions/`.
"""
