"""The command `dmdenv`, one subcommand per file."""
