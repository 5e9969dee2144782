"""All tables: importing this module fills the metadata."""
