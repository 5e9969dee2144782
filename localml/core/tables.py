"""All tables: importing this module fills the metadata."""

import localml.core.buckets.tables
import localml.core.capacity.tables
import localml.core.events.tables
import localml.core.instances.tables
import localml.core.logs.tables
import localml.core.metrics.tables
import localml.core.people.tables
import localml.core.registry.tables
import localml.core.rows
import localml.core.series.tables
import localml.core.serving.tables
import localml.core.studies.tables
import localml.core.tallies
import localml.core.work.tables  # noqa: F401
