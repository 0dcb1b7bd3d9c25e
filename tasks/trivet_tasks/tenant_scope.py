"""The tenant whose jobs, batches and costs somebody may see."""

from typing import NamedTuple


class TenantScope(NamedTuple):
    """Jobs of one tenant; of None, jobs without a tenant. Where a scope is optional, None stands for all jobs.

    >>> TenantScope("acme").sees("acme"), TenantScope(None).sees("acme")
    (True, False)
    """

    tenant: str | None

    def sees(self, tenant: str | None) -> bool:
        """Return whether work of this tenant is in the scope."""
        return self.tenant == tenant

    def condition(self, column: str) -> str:
        """Return the condition on a column of SQL; its parameter is `scope_tenant`.

        >>> TenantScope("acme").condition("j.tenant")
        'j.tenant = :scope_tenant'
        """
        # not IS NOT DISTINCT FROM, for which PostgreSQL uses no index
        return f"{column} IS NULL" if self.tenant is None else f"{column} = :scope_tenant"

    @property
    def parameters(self) -> dict[str, str]:
        """Return the parameters of `condition`."""
        return {} if self.tenant is None else {"scope_tenant": self.tenant}


def in_scope(scope: TenantScope | None, column: str) -> tuple[str, dict[str, str]]:
    """Return a condition that begins with AND, and its parameters; nothing without a scope.

    >>> in_scope(TenantScope(None), "j.tenant")
    (' AND j.tenant IS NULL', {})
    >>> in_scope(None, "j.tenant")
    ('', {})
    """
    return ("", {}) if scope is None else (f" AND {scope.condition(column)}", scope.parameters)
