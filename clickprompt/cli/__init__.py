"""The `clickprompt` command."""
