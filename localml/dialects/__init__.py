"""The APIs that are served, as a list one can read: path prefix -> ``module:factory`` of the dialect's app."""

DIALECTS: tuple[tuple[str, str], ...] = (
    ("/localml/v1", "localml.dialects.native:create_app"),
    ("/cloud_ml", "localml.dialects.cloudml:create_app"),
    ("/api/v1", "localml.dialects.openpai:create_app"),
    ("/api/pods", "localml.dialects.mlbench:create_app"),
    ("/api/metrics", "localml.dialects.mlbench:create_app"),
    ("/api/runs", "localml.dialects.mlbench:create_app"),
    ("/api/openapi.json", "localml.dialects.mlbench:create_app"),
)


def served() -> frozenset[str]:
    """Names of the APIs that are served, which are those of their packages."""
    return frozenset(factory.partition(":")[0].rpartition(".")[2] for _, factory in DIALECTS)
