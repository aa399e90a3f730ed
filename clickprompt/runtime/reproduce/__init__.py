"""Make the paper's tables: `clickprompt reproduce`."""
