"""The `dicom-node` command with all its commands, by panel.

Commands are thin: they read the settings, ask for parts, and print.
"""

import sys

import typer
from rich.markup import escape

from dicom_node.cli import node, operate, recover, stored, try_out
from dicom_node.cli.output import error_console
from dicom_node.errors import ConfigurationError
from dicom_node.runtime.process import keep_files_private
from storage.errors import NodeError

NODE = "Node"
OPERATE = "Operate"
TRY = "Try out"

app = typer.Typer(
    name="dicom-node",
    help="A DICOM-native AI node: scanners push studies, the PACS receives segmentations and structured reports.\n\n"
    "Start with `dicom-node demo`, or write a node.toml, check it with `dicom-node check-config` and start "
    "`dicom-node run`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
database = typer.Typer(help="The database's schema.", no_args_is_help=True)

app.command("run", rich_help_panel=NODE)(node.run_command)
app.command("receive", rich_help_panel=NODE)(node.receive_command)
app.command("index", rich_help_panel=NODE)(node.index_command)
app.command("schedule", rich_help_panel=NODE)(node.schedule_command)
app.command("work", rich_help_panel=NODE)(node.work_command)
app.command("dispatch", rich_help_panel=NODE)(node.dispatch_command)

app.command("check-config", rich_help_panel=OPERATE)(operate.check_config_command)
app.command("studies", rich_help_panel=OPERATE)(operate.studies_command)
app.command("study", rich_help_panel=OPERATE)(operate.study_command)
app.command("explain", rich_help_panel=OPERATE)(operate.explain_command)
app.command("jobs", rich_help_panel=OPERATE)(operate.jobs_command)
app.command("commitments", rich_help_panel=OPERATE)(operate.commitments_command)
app.command("confirmations", rich_help_panel=OPERATE)(operate.confirmations_command)
app.command("problems", rich_help_panel=OPERATE)(operate.problems_command)
app.command("acknowledge", rich_help_panel=OPERATE)(operate.acknowledge_command)
app.command("retry", rich_help_panel=OPERATE)(recover.retry_command)
app.command("withdraw", rich_help_panel=OPERATE)(recover.withdraw_command)
app.command("fsck", rich_help_panel=OPERATE)(recover.fsck_command)
app.command("export", rich_help_panel=OPERATE)(stored.export_command)
app.command("delete", rich_help_panel=OPERATE)(stored.delete_command)

app.command("demo", rich_help_panel=TRY)(try_out.demo_command)
app.command("simulate", rich_help_panel=TRY)(try_out.simulate_command)
app.command("send", rich_help_panel=TRY)(try_out.send_command)
app.command("recognise", rich_help_panel=TRY)(try_out.recognise_command)
app.command("echo", rich_help_panel=TRY)(try_out.echo_command)

app.add_typer(database, name="db")
database.command("upgrade")(recover.upgrade_command)


def main() -> None:
    """Run the command that the arguments name, and print an error of the node as one message without a traceback."""
    keep_files_private()
    try:
        app()
    except ConfigurationError as error:
        error_console.print("[bold red]The configuration cannot be used:[/]")
        for mistake in error.mistakes:
            error_console.print(f"  • {escape(mistake)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except NodeError as error:
        error_console.print(f"[bold red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
