"""A contract of import-linter: a package imports what is on its list, and nothing else."""

from collections.abc import Iterable
from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class AllowedImports(Contract):
    """`source_modules` and the modules below them import `allowed_modules` and the modules below those only."""

    type_name = "allowed"

    source_modules = fields.ListField(subfield=fields.StringField())
    allowed_modules = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Find every direct import that is not allowed."""
        allowed: tuple[str, ...] = tuple(map(str, cast(Iterable[str], self.allowed_modules)))
        sources: tuple[str, ...] = tuple(map(str, cast(Iterable[str], self.source_modules)))
        broken = sorted(
            (module, imported)
            for module in graph.modules
            if _is_in(module, sources)
            for imported in graph.find_modules_directly_imported_by(module)
            if not _is_in(imported, allowed)
        )
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name each import."""
        for module, imported in check.metadata["broken"]:
            output.print_error(f"{module} must not import {imported}", bold=False)


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
