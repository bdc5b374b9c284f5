"""Options that the commands of `brew360 benchmark` share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Data", "Model", "Overrides", "Protocol", "Recipe"]

Model = Annotated[
    str, typer.Argument(help="registry:NUMBER, registry:ALIAS, or the folder of an export or of a base model.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings, e.g. engine.threads=1", metavar="[KEY=VALUE]...")
]
Data = Annotated[Path | None, typer.Option(help="Data folder, from `brew360 data build`.")]
Recipe = Annotated[Path | None, typer.Option(help="YAML file of settings.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="streaming: a row sees all that is earlier; frozen: all rows of a member are one slate at the end of "
        "training, for AUC by member and NDCG. Default: streaming."
    ),
]
