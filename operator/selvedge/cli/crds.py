"""``selvedge crds``: write the CustomResourceDefinitions and the reference, or check that they are up to date."""

from __future__ import annotations

from pathlib import Path

import click

from selvedge.api import crd, reference
from selvedge.api.resource import KINDS


def files() -> dict[str, str]:
    """The text of each CustomResourceDefinition by file name."""
    return {f"{kind.plural}.yaml": crd.to_yaml(crd.crd(kind)) for kind in KINDS.values()}


def reference_files() -> dict[str, str]:
    """The text of each page of the reference by file name."""
    pages = {f"{kind.kind.lower()}.md": reference.page(kind) for kind in KINDS.values()}
    return {**pages, "reasons.md": reference.reasons_page()}


def chart_files() -> dict[str, str]:
    """The same as templates of the Helm chart: helm neither upgrades nor keeps what lies in a chart's ``crds/``."""
    keep = "metadata:\n  annotations: {helm.sh/resource-policy: keep}\n"
    return {
        name: "{{- if .Values.crds.install }}\n" + text.replace("metadata:\n", keep, 1) + "{{- end }}\n"
        for name, text in files().items()
    }


def write(directory: Path, docs: Path | None = None, chart: Path | None = None) -> list[Path]:
    """Write the CRDs into ``directory``, the reference into ``docs``, templates into ``chart``; return what changed.

    Raises OSError.
    """
    changed = []
    for path, text in _targets(directory, docs, chart):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def check(directory: Path, docs: Path | None = None, chart: Path | None = None) -> list[str]:
    """What :func:`write` would change, one sentence for each file; empty when all are up to date."""
    problems = []
    command = f"selvedge crds --output {directory}" + (f" --docs {docs}" if docs else "")
    command += f" --chart {chart}" if chart else ""
    for path, text in _targets(directory, docs, chart):
        if not path.exists():
            problems.append(f"{path} is missing: run `{command}`")
        elif path.read_text(encoding="utf-8") != text:
            problems.append(f"{path} differs from the models: run `{command}`")
    return problems


def _targets(directory: Path, docs: Path | None, chart: Path | None) -> list[tuple[Path, str]]:
    targets = [(directory / name, text) for name, text in files().items()]
    if docs is not None:
        targets += [(docs / name, text) for name, text in reference_files().items()]
    if chart is not None:
        targets += [(chart / name, text) for name, text in chart_files().items()]
    return targets


@click.command()
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Write the CRDs into this directory.")
@click.option("--docs", type=click.Path(path_type=Path, file_okay=False), help="Write the reference into this one too.")
@click.option("--chart", type=click.Path(path_type=Path, file_okay=False), help="Write the chart's templates here too.")
@click.option("--check", "only_check", is_flag=True, help="Write nothing; exit with 2 if a file is outdated.")
def crds(output: Path | None, docs: Path | None, chart: Path | None, *, only_check: bool) -> None:
    """Print the CustomResourceDefinitions as YAML, or keep files with them.

    Without options they go to standard output, for `selvedge crds | kubectl apply -f -`. --check alone looks at crds/,
    docs/reference/ and the chart's templates below the working directory.
    """
    if only_check:
        usual = (Path("crds"), docs or Path("docs/reference"), chart or Path("charts/selvedge/templates/crds"))
        problems = check(output, docs, chart) if output else check(*usual)
        for problem in problems:
            click.echo(problem, err=True)
        raise SystemExit(2 if problems else 0)
    if output is None:
        if docs is not None or chart is not None:
            raise click.UsageError("--docs and --chart need --output: give the directory of the CRDs too")
        click.echo("---\n".join(files().values()), nl=False)
        return
    for path in write(output, docs, chart):
        click.echo(path)


if __name__ == "__main__":
    crds()
