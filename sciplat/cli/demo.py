"""`sciplat demo`: the whole path on a simulated survey whose truth is known."""

import click


@click.command(short_help="Run the whole path on a simulated survey of known truth.")
@click.option("--output", metavar="FOLDER", default="demo-output", show_default=True, help="For everything; made anew.")
@click.option(
    "--fields", metavar="N", type=click.IntRange(min=4), default=12, show_default=True, help="Fields on the sky."
)
def demo(output: str, fields: int) -> None:
    """Simulate a survey, ingest it, measure every source on every image, and compare with the truth."""
    from rich.console import Console
    from rich.table import Table

    from sciplat.demo.run import run_demo

    console = Console()
    report = run_demo(output, fields=fields, say=click.echo)
    table = Table("", "found", "expected")
    for row in report.table():
        table.add_row(*row)
    console.print(table)
    click.echo(f"report    {report.page}")
    report.check()
