"""`qkv doctor`: what this installation can do."""

from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
) -> None:
    """Say what is installed, what this machine offers, and whether fast routes compute the right thing.

    Exit status 1 if they do not, or if a package that qkv requires is missing or too old.
    """
    import json

    from qkv.requirements import describe_fix, find_unmet

    lacking = find_unmet()
    if not all(one.installed for one in lacking):  # then nothing else can be looked at
        print(f"packages  {describe_fix(lacking)}")
        raise typer.Exit(1)

    from qkv.doctor import examine, report_lines

    health = examine()
    if as_json:
        print(json.dumps(health.to_dict(), indent=2))
    else:
        for line in report_lines(health):
            print(line)
    if not health.healthy:
        raise typer.Exit(1)
