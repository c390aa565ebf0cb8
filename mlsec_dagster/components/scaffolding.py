"""What scaffolders of checks write into their defs.yaml."""

from pathlib import Path

import dagster as dg


def materialized_assets(project_root: Path | None) -> list[str]:
    """The keys of all assets that the project materializes."""
    if project_root is None:
        return []
    assets = dg.load_from_defs_folder(path_within_project=project_root).assets or []
    keys = [key for each in assets if isinstance(each, dg.AssetsDefinition) and each.is_executable for key in each.keys]
    return sorted(key.to_user_string() for key in keys)
