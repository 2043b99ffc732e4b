"""`fedrad-coordinator weights` and `export`: models that come from outside, and that go there, as safetensors files."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_common.cli import emit
from fedrad_server.cli.options import HomeArgument, JsonOption, RunArgument


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (weights, export):
        app.command()(verb)


def weights(
    home: HomeArgument,
    protocol: Annotated[Path, typer.Argument(metavar="PROTOCOL", help="The protocol's TOML file: its network is what they must fit.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file.")],
    source: Annotated[str, typer.Option(help="What they were trained on and where they are: every site's people read it.")],
    fresh: Annotated[str, typer.Option(help="Layers that start from the seed all the same, such as head.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Bring public weights, and print the section by which a protocol starts from them. Weights that learned from patients are not public.

    Exit codes: 0 kept in HOME/weights · 1 failed · 2 misused, or of another network.

    Example: fedrad-coordinator weights coordinator chest.toml chest.safetensors --source "NIH chest X-rays, doi:…" --fresh head
    """
    from fedrad_common.protocol import load_protocol, render_lineage
    from fedrad_server.launching import keep_weights

    lineage = keep_weights(home, load_protocol(protocol), file, source=source, fresh=fresh)
    emit(lineage.model_dump(mode="json", exclude_none=True), as_json=as_json, lines=render_lineage(lineage))


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="A new safetensors file.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run's newest released model as a safetensors file, with its lineage in the header.

    Exit codes: 0 written · 1 failed · 2 misused.

    Example: fedrad-coordinator export coordinator/runs/pneumonia --out pneumonia.safetensors
    """
    from fedrad_common.files import check_target
    from fedrad_common.packing import vector_hash
    from fedrad_common.weights import file_hash, write_weights
    from fedrad_server.history import read_run

    check_target(out, option="--out", force=force)
    records = read_run(run, files=False)
    vector, privacy, model = records.released(records.round), records.protocol.privacy, records.protocol.model
    lineage = {
        "run": records.launch.run,
        "round": f"{records.round}",
        "protocol": records.protocol.hash,
        "model": vector_hash(vector),
        "unit": privacy.unit,
        "epsilon": "no bound" if privacy.epsilon is None else f"{privacy.epsilon:g}",
        "trains": model.trains,
        "initial": model.initial.kind,
    }
    lineage |= {"source": model.initial.source, "weights": str(model.initial.weights)} if model.initial.source else {}
    write_weights(records.protocol, vector, out, lineage=lineage)
    facts = lineage | {"file": str(out), "sha256": file_hash(out)}
    emit(facts, as_json=as_json, lines=[f"{out}: round {records.round} of {records.launch.run}", f"  SHA-256  {facts['sha256']}"])
