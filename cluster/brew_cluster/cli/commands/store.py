"""`brew360 store`: whole folders on S3 or in a local store."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

Address = Annotated[str, typer.Argument(help="s3://bucket/folder, or a folder.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Copy whole folders to S3 and back.", no_args_is_help=True)
    for command in (push, pull):
        group.command()(command)
    app.add_typer(group, name="store")


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of data, of a run, or of an exported model.")], url: Address
) -> None:
    """Upload a folder. Objects are never overwritten; the same command completes an upload that was interrupted.

        brew360 store push data/synthetic s3://bucket/data/synthetic

    Training reads the bins of a data folder from there. Credentials, region and endpoint come from the environment
    (AWS_*).
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_platform.console.progress import Phases
        from brew_platform.storage.base import open_store
        from brew_platform.storage.folders import upload_folder

        store = open_store(url)
        with Phases(["upload"], console=console).phase("upload", unit="MB") as progress:
            files = upload_folder(
                folder, store, on_progress=lambda done, total: progress.update(done / 1e6, total=total / 1e6)
            )
        console.print(f"{store.url} has {len(files)} files.")


def pull(url: Address, folder: Annotated[Path, typer.Argument(help="Folder to create.")]) -> None:
    """Download a folder that `brew360 store push` uploaded, and verify every file.

    brew360 store pull s3://bucket/data/synthetic data/synthetic
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_platform.console.progress import Phases
        from brew_platform.storage.base import open_store
        from brew_platform.storage.folders import download_folder

        store = open_store(url)
        with Phases(["download"], console=console).phase("download", unit="MB") as progress:
            files = download_folder(
                store, folder, on_progress=lambda done, total: progress.update(done / 1e6, total=total / 1e6)
            )
        console.print(f"{folder} has {len(files)} files.")
